"""The decision log: its JSON form, reading it, and taking its decisions again.

A decision that comes out different from its own logged inputs means that the policy has changed, or that it
looked at something it did not log. Both are to be noticed.
"""

import json
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from cluster.config.routing import RoutingConfig
from cluster.entities.decision import DecisionRecord, ReplicaDecision
from cluster.entities.routing import PathChoice, ReplicaChoice
from cluster.policy.disaggregation import choose_path
from cluster.policy.routing.replicas.min_work import choose_replica


class DecisionLogError(ValueError):
    """A decision log, or a record in it, is not what this version writes; the message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field of one decision that came out different."""

    decision: str
    """`replica`, `path_decision` or `prefill`."""
    field: str
    """Field of the choice."""
    logged: str
    """The logged value, as JSON."""
    redecided: str
    """What the policy decides now, as JSON."""


def to_json(record: DecisionRecord) -> dict[str, Any]:
    """A record as plain JSON data, all fields present."""
    return cast("dict[str, Any]", _encode(record))


def from_json(data: dict[str, Any]) -> DecisionRecord:
    """The inverse of `to_json`.

    Raises:
        DecisionLogError: a field is missing, unknown or of the wrong type.
    """
    return cast("DecisionRecord", _decoder(DecisionRecord)(data, "record"))


def read_log(lines: Iterable[str]) -> Iterator[DecisionRecord]:
    """The records of a JSONL log, one at a time.

    A last line without its line break that is not valid JSON was being written when the router died, and is
    skipped. Anything else that cannot be read is an error.

    Args:
        lines: as an open text file gives them.

    Raises:
        DecisionLogError: a line is not a record; the message has its number.
    """
    held: tuple[int, str] | None = None
    for number, line in enumerate(lines, start=1):
        if held is not None:
            yield _record(*held)
        held = (number, line)
    if held is None:
        return
    number, line = held
    if not line.endswith("\n") and not _is_json(line):
        return
    yield _record(number, line)


def redecide(record: DecisionRecord, routing: RoutingConfig) -> tuple[Difference, ...]:
    """Take a record's decisions again from their logged inputs.

    Args:
        record: as read from a log.
        routing: the routing configuration that was in force, or one to be judged against it.

    Returns:
        What came out different; empty when every choice is equal byte for byte.
    """
    differences = [
        *_replica_differences("replica", record.replica, routing),
        *_replica_differences("prefill", record.prefill, routing),
    ]
    decision = record.path_decision
    if decision is not None:
        again = choose_path(
            record.signals,
            decision.decode,
            decision.prefill,
            routing.disaggregation,
            now_s=decision.decided_at_s,
        )
        differences += _differences("path_decision", decision.choice, again)
    return tuple(differences)


def _replica_differences(
    name: str, decision: ReplicaDecision | None, routing: RoutingConfig
) -> list[Difference]:
    if decision is None:
        return []
    again = choose_replica(
        decision.prompt_tokens,
        decision.candidates,
        routing.replicas,
        now_s=decision.decided_at_s,
        draw=decision.draw,
    )
    return _differences(name, decision.choice, again)


def _differences(
    decision: str, logged: ReplicaChoice | PathChoice, again: ReplicaChoice | PathChoice
) -> list[Difference]:
    found = []
    for field in fields(logged):
        # Compared as text: floats that print alike are the same bits, and that is the promise.
        before = json.dumps(_encode(getattr(logged, field.name)), sort_keys=True)
        after = json.dumps(_encode(getattr(again, field.name)), sort_keys=True)
        if before != after:
            found.append(Difference(decision=decision, field=field.name, logged=before, redecided=after))
    return found


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _record(number: int, line: str) -> DecisionRecord:
    try:
        return from_json(json.loads(line))
    except ValueError as error:
        raise DecisionLogError(f"line {number}: {error}") from error


# The codec follows the entities' own type hints, so a field added there is logged without a change here.

_Decode = Callable[[Any, str], Any]


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _encode(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, Enum):
        return value.value
    if kind is tuple:
        return [_encode(part) for part in value]
    if kind is dict:
        return {str(key): _encode(part) for key, part in value.items()}
    if is_dataclass(kind):
        return {name: _encode(getattr(value, name)) for name in _field_names(kind)}
    raise TypeError(f"a decision record cannot hold {value!r}")


_SCALARS = frozenset({str, int, float, bool, type(None)})


@cache
def _decoder(hint: Any) -> _Decode:
    """A function from JSON data to a value of the hinted type, or DecisionLogError with the path."""
    hint = getattr(hint, "__supertype__", hint)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _optional_decoder(hint)
    if origin is tuple:
        return _tuple_decoder(_decoder(get_args(hint)[0]))
    if origin is dict:
        return _dict_decoder(_decoder(get_args(hint)[1]))
    if is_dataclass(hint):
        return _dataclass_decoder(cast("type", hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_decoder(hint)
    if hint in _SCALARS:
        return _scalar_decoder(hint)
    raise TypeError(f"the decision log cannot hold a field of type {hint}")


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
    decode_some = _decoder(next(part for part in get_args(hint) if part is not type(None)))
    return lambda data, path: None if data is None else decode_some(data, path)


def _tuple_decoder(decode_part: _Decode) -> _Decode:
    def decode(data: Any, path: str) -> Any:
        if not isinstance(data, list):
            raise _wrong(path, "a list", data)
        return tuple(decode_part(part, f"{path}[{index}]") for index, part in enumerate(data))

    return decode


def _dict_decoder(decode_value: _Decode) -> _Decode:
    def decode(data: Any, path: str) -> Any:
        if not isinstance(data, dict):
            raise _wrong(path, "an object", data)
        return {key: decode_value(value, f"{path}.{key}") for key, value in data.items()}

    return decode


def _dataclass_decoder(kind: type) -> _Decode:
    hints = get_type_hints(kind)
    decoders = {name: _decoder(hints[name]) for name in _field_names(kind)}

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
