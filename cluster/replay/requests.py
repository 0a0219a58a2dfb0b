"""The decision log: its JSON form, reading it, and taking its decisions again.

A decision that comes out different from its own logged inputs means that the policy has changed, or that it
looked at something it did not log. Both are to be noticed.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from cluster.config.routing import RoutingConfig
from cluster.entities.decision import DecisionRecord, ReplicaDecision
from cluster.entities.routing import PathChoice, ReplicaChoice
from cluster.policy.disaggregation import choose_path
from cluster.policy.routing.replicas.policies import choose_replica
from cluster.replay.codec import DecisionLogError, decoder, encode


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
    return cast("dict[str, Any]", encode(record))


def from_json(data: dict[str, Any]) -> DecisionRecord:
    """The inverse of `to_json`.

    Raises:
        DecisionLogError: a field is missing, unknown or of the wrong type.
    """
    return cast("DecisionRecord", decoder(DecisionRecord)(data, "record"))


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
        *_replica_differences("replica", record, record.replica, routing),
        *_replica_differences("prefill", record, record.prefill, routing),
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
    name: str, record: DecisionRecord, decision: ReplicaDecision | None, routing: RoutingConfig
) -> list[Difference]:
    if decision is None:
        return []
    # Where another replica goes on with an answer, the prompt is longer than the request's.
    again = choose_replica(
        replace(record.signals, prompt_tokens=decision.prompt_tokens),
        decision.candidates,
        routing.replicas,
        now_s=decision.decided_at_s,
        draw=decision.draw,
        remembered=decision.remembered,
    )
    return _differences(name, decision.choice, again)


def _differences(
    decision: str, logged: ReplicaChoice | PathChoice, again: ReplicaChoice | PathChoice
) -> list[Difference]:
    found = []
    for field in fields(logged):
        # Compared as text: floats that print alike are the same bits, and that is the promise.
        before = json.dumps(encode(getattr(logged, field.name)), sort_keys=True)
        after = json.dumps(encode(getattr(again, field.name)), sort_keys=True)
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
