# ruff: noqa: INP001 - documentation, not a package of the application
"""Writes docs/configuration.md from the pydantic models, so that the page cannot disagree with the code.

Run from the root of the checkout: `python -m docs.generate_configuration > docs/configuration.md`.
"""

import json
from collections.abc import Iterator
from typing import Any

from cluster.config.root import TidemillConfig

_HEAD = """# Configuration

<!-- Generated: python -m docs.generate_configuration > docs/configuration.md -->

One YAML file configures a cluster: `tidemill up -c FILE`, or `make run CONFIG=FILE`. Only `models` and
`pools` have to be there. A field that is not listed here is an error that names the field and what was
probably meant. The same rules as a JSON schema, for editors: [config.schema.json](config.schema.json). Files
to start from: `configs/local.yaml` (the default), `configs/local-combined.yaml`, `configs/simulated-50.yaml`.

The smallest file there can be:

```yaml
models:
  qwen3-0.6b: {source: Qwen/Qwen3-0.6B}
pools:
  combined: {model: qwen3-0.6b}
```

NAME stands for a name of your own: lower-case letters, digits, dots and hyphens. What the texts call None is
`null` in YAML.
"""

Json = dict[str, Any]


def configuration_page() -> str:
    """The page as it is committed."""
    schema = TidemillConfig.model_json_schema()
    sections = [_HEAD, *_sections("", schema, schema["$defs"])]
    return "\n".join(sections)


def _sections(path: str, section: Json, definitions: Json) -> Iterator[str]:
    """A section's own table, then those of the sections within it."""
    title = f"`{path}`" if path else "Top level"
    kind = section["properties"].get("kind", {}).get("const")
    if kind:
        title += f" with `kind: {kind}`"
    required = set(section.get("required", []))
    rows = [
        f"| `{name}` | {_cell(_kind(field, definitions))} | {_default(name, field, required, definitions)} | "
        f"{_cell(_meaning(field, definitions))} |"
        for name, field in section["properties"].items()
    ]
    head = ["| field | value | default | meaning |", "|---|---|---|---|"]
    yield "\n".join([f"## {title}", "", section.get("description", ""), "", *head, *rows, ""])
    for name, field in section["properties"].items():
        inner = f"{path}.{name}" if path else name
        for infix, found in _inner_sections(field, definitions):
            yield from _sections(inner + infix, found, definitions)


def _inner_sections(field: Json, definitions: Json) -> Iterator[tuple[str, Json]]:
    """Sections that a field holds: its own, one of several, or one under each name."""
    for entry in field.get("patternProperties", {}).values():
        yield from ((".NAME", found) for _, found in _inner_sections(entry, definitions))
    items = field.get("items")
    if isinstance(items, dict):
        yield from (("[]", found) for _, found in _inner_sections(items, definitions))
    for option in [field, *field.get("oneOf", []), *field.get("anyOf", [])]:
        if "$ref" in option:
            found = _resolve(option, definitions)
            if "properties" in found:
                yield "", found


def _resolve(node: Json, definitions: Json) -> Json:
    found: Json = definitions[node["$ref"].rsplit("/", 1)[1]]
    return found


def _meaning(field: Json, definitions: Json) -> str:
    text = field.get("description") or ""
    if not text and "$ref" in field:
        text = _resolve(field, definitions).get("description", "")
    return text or "Which of the forms below this is."


def _default(name: str, field: Json, required: set[str], definitions: Json) -> str:
    if name in required:
        return "required"
    if field.get("type") != "array" and any(True for _ in _inner_sections(field, definitions)):
        return "as below"
    value = field.get("default")
    return f"`{_value(value)}`" if "default" in field else "`{}`"


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _kind(node: Json, definitions: Json) -> str:
    """What a field takes, in words."""
    if "$ref" in node:
        found = _resolve(node, definitions)
        return "section" if "properties" in found else _kind(found, definitions)
    options = node.get("oneOf") or node.get("anyOf")
    if options:
        return " or ".join(dict.fromkeys(_kind(option, definitions) for option in options))
    values = node.get("enum") or [node[key] for key in ("const",) if key in node]
    if values:
        return " or ".join(f"`{value}`" for value in values)
    if node.get("type") == "array":
        return f"list of {_kind(node['items'], definitions)}s"
    if node.get("type") == "object":
        return _mapping(node, definitions)
    return _NAMES.get(node.get("type", ""), _ANYTHING) + _range(node)


_ANYTHING = "anything"
_NAMES = {"integer": "integer", "number": "number", "string": "string", "boolean": "boolean", "null": "null"}


def _mapping(node: Json, definitions: Json) -> str:
    entries = [*node.get("patternProperties", {}).values()]
    if not entries and isinstance(node.get("additionalProperties"), dict):
        entries = [node["additionalProperties"]]
    return f"mapping of names to {_plural(_kind(entries[0], definitions))}" if entries else "mapping"


def _plural(kind: str) -> str:
    return kind if kind == _ANYTHING else f"{kind}s"


def _range(node: Json) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [
        f"{sign} {json.dumps(node[key]).removesuffix('.0')}" for key, sign in signs.items() if key in node
    ]
    return f", {' and '.join(bounds)}" if bounds else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(configuration_page(), end="")
