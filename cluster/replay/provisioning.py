"""The provisioner's log: every decision with what it was made from, so that it can be taken again.

One JSON object per line. The first line of a file, and the first after every restart, is a header with policy
and configuration. A decision holds its snapshot, what was decided, and a hash of the state it left; the state
itself only now and then (a checkpoint), because it follows from what came before.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from cluster.config import TidemillConfig, check_config
from cluster.config.provisioning import PolicyName
from cluster.entities.fleet import ClassForecast, FleetDecision, FleetPlan, FleetSnapshot, ProvisionerState
from cluster.entities.reasons import Reason
from cluster.performance.reported import LearntSpeed
from cluster.policy.provisioning.policies import POLICIES
from cluster.replay.codec import DecisionLogError, decoder, encode

FORMAT = 1
CHECKPOINT_RECORDS = 100
"""A state is written in full with every so many records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What a decision says, without the state it leaves."""

    plan: FleetPlan
    forecast: tuple[ClassForecast, ...]
    reasons: tuple[Reason, ...]
    state_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisioningRecord:
    """One line of the log."""

    snapshot: FleetSnapshot
    decided: Decided
    state_before: ProvisionerState | None = None
    """In full, in a checkpoint; None where it is what the record before left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redecided:
    """One decision taken again."""

    line: int
    observed_at_s: float
    difference: str | None
    """Which field came out different, with both values; None if the decision is equal byte for byte."""


def header_line(policy: str, config: TidemillConfig) -> str:
    """The header, with its line break."""
    header = {"tidemill_provisioning": FORMAT, "policy": policy, "config": config.model_dump(mode="json")}
    return json.dumps(header) + "\n"


def record_line(
    snapshot: FleetSnapshot, decision: FleetDecision, *, state_before: ProvisionerState | None
) -> str:
    """A record, with its line break.

    Args:
        snapshot: what was seen.
        decision: what was decided.
        state_before: for a checkpoint; None to leave it out.
    """
    record = ProvisioningRecord(snapshot=snapshot, decided=decided(decision), state_before=state_before)
    return _text(record) + "\n"


def decided(decision: FleetDecision) -> Decided:
    """A decision without the state it leaves, but with its hash."""
    digest = hashlib.sha256(_text(decision.state).encode()).hexdigest()
    return Decided(
        plan=decision.plan, forecast=decision.forecast, reasons=decision.reasons, state_sha256=digest
    )


def redecide_log(lines: Iterable[str], *, policy: PolicyName | None = None) -> Iterator[Redecided]:
    """Take the decisions of a log again.

    A last line without its line break was being written when the provisioner died, and is skipped; so is what
    a solver's time limit has cut short.

    Args:
        lines: as an open text file gives them.
        policy: another policy than the logged one, to see where it would decide differently.

    Raises:
        DecisionLogError: a line is not what this version writes; the message has its number.
    """
    header: tuple[PolicyName, TidemillConfig] | None = None
    state: ProvisionerState | None = None
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            return
        try:
            data = json.loads(line)
            if isinstance(data, dict) and "tidemill_provisioning" in data:
                header, state = _header(data), None
                continue
            record = record_of(data)
        except ValueError as error:
            raise DecisionLogError(f"line {number}: {error}") from error
        if header is None:
            raise DecisionLogError(f"line {number}: a decision before any header")
        if record.state_before is not None and (state is None or policy is None):
            state = record.state_before
        if state is None:
            # The beginning was rotated away; decisions can be taken again from the next checkpoint on.
            continue
        if policy is None and is_cut_short(record.decided.reasons):
            state = None  # what it left hangs on a clock; the next record is a checkpoint
            continue
        again = POLICIES[policy or header[0]](record.snapshot, state, header[1])
        state = again.state
        yield Redecided(
            line=number,
            observed_at_s=record.snapshot.observed_at_s,
            difference=_difference(record.decided, decided(again)),
        )


def is_cut_short(reasons: Iterable[Reason]) -> bool:
    """Whether a decision hangs on how fast a machine was, so that it cannot be taken again."""
    return Reason.SOLVER_STOPPED in reasons


def record_of(data: Any) -> ProvisioningRecord:
    """A record from its JSON data.

    Raises:
        DecisionLogError: a field is missing, unknown or of the wrong type.
    """
    return cast("ProvisioningRecord", decoder(ProvisioningRecord)(data, "record"))


def state_text(state: ProvisionerState) -> str:
    """A state as JSON, for the file that outlives the provisioner."""
    return _text(state)


def state_of(text: str) -> ProvisionerState:
    """The inverse of `state_text`.

    Raises:
        DecisionLogError: it is not a state as this version writes it.
    """
    try:
        return cast("ProvisionerState", decoder(ProvisionerState)(json.loads(text), "state"))
    except ValueError as error:
        raise DecisionLogError(str(error)) from error


def learnt_text(learnt: Mapping[str, LearntSpeed]) -> str:
    """What was learnt of the pools' speed as JSON."""
    return _text(dict(learnt))


def learnt_of(text: str) -> dict[str, LearntSpeed]:
    """The inverse of `learnt_text`.

    Raises:
        DecisionLogError: it is not what this version writes.
    """
    try:
        return cast("dict[str, LearntSpeed]", decoder(dict[str, LearntSpeed])(json.loads(text), "learnt"))
    except ValueError as error:
        raise DecisionLogError(str(error)) from error


def _header(data: dict[str, Any]) -> tuple[PolicyName, TidemillConfig]:
    if data["tidemill_provisioning"] != FORMAT:
        raise DecisionLogError(f"format {data['tidemill_provisioning']} is not {FORMAT}")
    if data.get("policy") not in POLICIES:
        raise DecisionLogError(f"no policy {data.get('policy')!r}")
    return data["policy"], check_config(data.get("config"), origin="config")


def _difference(logged: Decided, again: Decided) -> str | None:
    for name in ("plan", "forecast", "reasons", "state_sha256"):
        before, after = _text(getattr(logged, name)), _text(getattr(again, name))
        if before != after:
            return f"{name}: logged {before}, now {after}"
    return None


def _text(value: Any) -> str:
    # Floats that print alike are the same bits.
    return json.dumps(encode(value), sort_keys=True)
