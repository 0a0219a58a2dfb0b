"""Reads the configuration; the one place where its errors are put into words.

Every message names the path of the field, the value found and what would be right.
"""

import difflib
import functools
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.config.root import TidemillConfig

_ENGINE_KINDS = ("vllm", "simulated")


class ConfigError(ValueError):
    """The configuration cannot be used; the message is meant for the person who wrote it."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML silently keeps the last of two equal keys; here that is an error."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(
                None, None, "a list or mapping cannot be a key", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} stands twice", key_node.start_mark
            )
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load_config(path: Path) -> TidemillConfig:
    """Read and check a configuration file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or breaks a rule.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: not UTF-8 text") from error
    return parse_config(text, origin=str(path))


def parse_config(text: str, *, origin: str = "configuration") -> TidemillConfig:
    """Check configuration text.

    Raises:
        ConfigError: the text is not YAML or breaks a rule.
    """
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - derives from SafeLoader
    except yaml.YAMLError as error:
        where = str(error).replace('in "<unicode string>", line', "line")
        raise ConfigError(f"{origin}: not valid YAML: {where}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin}: not valid YAML: nested too deeply") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: expected a mapping with `models` and `pools` at the top level")
    return check_config(data, origin=origin)


def check_config(data: Any, *, origin: str = "configuration") -> TidemillConfig:
    """Check configuration data, as read from YAML or JSON.

    Raises:
        ConfigError: the data break a rule.
    """
    try:
        return TidemillConfig.model_validate(data)
    except ValidationError as error:
        lines = [_in_words(detail) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join([f"{origin}:", *(f"  {line}" for line in lines)])) from error


def _in_words(detail: Any) -> str:
    found_at = detail["loc"]
    # The kind of an engine stands behind `engine` there, and in no file; pools may be called the same.
    location = [
        part
        for before, part in zip((None, *found_at), found_at, strict=False)
        if before != "engine" or part not in _ENGINE_KINDS
    ]
    path = ".".join(str(part) for part in location)
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown field{_suggestion(location)}"
    if detail["type"] == "missing":
        return f"{path}: missing; this field is required"
    if detail["type"] == "union_tag_not_found":
        return f"{path}.kind: missing; one of {', '.join(map(repr, _ENGINE_KINDS))}"
    found = detail.get("input")
    shown = "" if isinstance(found, dict | list) or not path else f" (found {found!r})"
    return f"{path}: {message}{shown}" if path else message


def _suggestion(location: list[Any]) -> str:
    """The field that was probably meant, from the section the unknown one stands in."""
    fields = _fields_at(location[:-1])
    close = difflib.get_close_matches(str(location[-1]), fields, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(sorted(fields))}" if fields else ""


@functools.cache
def _schema() -> dict[str, Any]:
    return TidemillConfig.model_json_schema()


def _fields_at(location: list[Any]) -> list[str]:
    schema = _schema()
    definitions = schema["$defs"]

    def options(node: Any) -> list[Any]:
        if "$ref" in node:
            return [definitions[node["$ref"].rsplit("/", 1)[1]]]
        return [found for part in node.get("oneOf", node.get("anyOf", [])) for found in options(part)] or [
            node
        ]

    nodes = [schema]
    for part in location:
        nodes = [
            found
            for node in nodes
            for child in [node.get("properties", {}).get(part), *node.get("patternProperties", {}).values()]
            if isinstance(child, dict)
            for found in options(child)
        ]
    return sorted({name for node in nodes for name in node.get("properties", {})})
