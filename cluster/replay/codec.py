"""JSON for what is logged: dataclasses, enums, tuples, dicts and scalars, exact in both directions.

It follows the entities' own type hints, so a field added there is logged without a change here.
"""

import json
import types
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, cast, get_args, get_origin, get_type_hints


class DecisionLogError(ValueError):
    """A decision log, or a record in it, is not what this version writes; the message says where."""


_Decode = Callable[[Any, str], Any]


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def encode(value: Any) -> Any:
    """A value as plain JSON data, all fields present.

    Raises:
        TypeError: it holds something without a form in JSON.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, Enum):
        return value.value
    if kind is tuple:
        return [encode(part) for part in value]
    if kind is dict:
        return {str(key): encode(part) for key, part in value.items()}
    if is_dataclass(kind):
        return {name: encode(getattr(value, name)) for name in _field_names(kind)}
    raise TypeError(f"a log cannot hold {value!r}")


_SCALARS = frozenset({str, int, float, bool, type(None)})


@cache
def decoder(hint: Any) -> _Decode:
    """A function from JSON data to a value of the hinted type, or DecisionLogError with the path."""
    hint = getattr(hint, "__supertype__", hint)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _optional_decoder(hint)
    if origin is not None:
        return _container_decoder(origin, get_args(hint), hint)
    if is_dataclass(hint):
        return _dataclass_decoder(cast("type", hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_decoder(hint)
    if hint in _SCALARS:
        return _scalar_decoder(hint)
    raise TypeError(f"a log cannot hold a field of type {hint}")


def _container_decoder(origin: Any, parts: tuple[Any, ...], hint: Any) -> _Decode:
    if origin is tuple and parts[-1] is not Ellipsis:
        return _row_decoder(tuple(decoder(part) for part in parts))
    if origin is tuple:
        return _tuple_decoder(decoder(parts[0]))
    if origin is dict:
        return _dict_decoder(decoder(parts[1]))
    raise TypeError(f"a log cannot hold a field of type {hint}")


def _wrong(path: str, expected: str, found: Any) -> DecisionLogError:
    return DecisionLogError(f"{path}: expected {expected}, found {json.dumps(found)[:80]}")


def _scalar_decoder(kind: type) -> _Decode:
    # JSON writes a whole float as an integer in some writers; the value is the same.
    accepted = (float, int) if kind is float else (kind,)

    def decode(data: Any, path: str) -> Any:
        if type(data) not in accepted:
            raise _wrong(path, kind.__name__, data)
        return data

    return decode


def _enum_decoder(kind: type[Enum]) -> _Decode:
    known = {member.value: member for member in kind}

    def decode(data: Any, path: str) -> Any:
        member = known.get(data) if isinstance(data, str) else None
        if member is None:
            raise _wrong(path, f"one of {', '.join(known)}", data)
        return member

    return decode


def _optional_decoder(hint: Any) -> _Decode:
    decode_some = decoder(next(part for part in get_args(hint) if part is not type(None)))
    return lambda data, path: None if data is None else decode_some(data, path)


def _tuple_decoder(decode_part: _Decode) -> _Decode:
    def decode(data: Any, path: str) -> Any:
        if not isinstance(data, list):
            raise _wrong(path, "a list", data)
        return tuple(decode_part(part, f"{path}[{index}]") for index, part in enumerate(data))

    return decode


def _row_decoder(decode_parts: tuple[_Decode, ...]) -> _Decode:
    """A tuple of a fixed length, each place with a type of its own."""

    def decode(data: Any, path: str) -> Any:
        if not isinstance(data, list) or len(data) != len(decode_parts):
            raise _wrong(path, f"a list of {len(decode_parts)}", data)
        return tuple(
            part(value, f"{path}[{index}]")
            for index, (part, value) in enumerate(zip(decode_parts, data, strict=True))
        )

    return decode


def _dict_decoder(decode_value: _Decode) -> _Decode:
    def decode(data: Any, path: str) -> Any:
        if not isinstance(data, dict):
            raise _wrong(path, "an object", data)
        return {key: decode_value(value, f"{path}.{key}") for key, value in data.items()}

    return decode


def _dataclass_decoder(kind: type) -> _Decode:
    hints = get_type_hints(kind)
    decoders = {name: decoder(hints[name]) for name in _field_names(kind)}

    def decode(data: Any, path: str) -> Any:
        if not isinstance(data, dict):
            raise _wrong(path, "an object", data)
        if data.keys() != decoders.keys():
            _raise_fields(data.keys(), decoders.keys(), path)
        return kind(**{name: part(data[name], f"{path}.{name}") for name, part in decoders.items()})

    return decode


def _raise_fields(found: Iterable[str], expected: Iterable[str], path: str) -> None:
    unknown = ", ".join(sorted(set(found) - set(expected)))
    missing = ", ".join(sorted(set(expected) - set(found)))
    parts = [f"unknown field {unknown}"] * bool(unknown) + [f"missing field {missing}"] * bool(missing)
    raise DecisionLogError(f"{path}: {'; '.join(parts)} (written by another version of Tidemill?)")
