"""Logged choices of models and what came of them, joined for judging another policy on old traffic.

Choices are in the routers' decision logs. What came of them is told in lines of its own, because it may come
long after the answer: the learner's journal (`{"outcome": …}`, `{"feedback": …}`), or lines that anybody can
write, `{"decision_id": …, "reward": 0.8}` with `cost_usd` and `energy_j` where they are known.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.entities.decision import DecisionRecord, ModelDecision
from cluster.entities.model_routing import FeedbackSource, ModelOutcome
from cluster.replay.codec import DecisionLogError
from cluster.replay.requests import from_json

CHOICES_MAX = 50_000
"""The newest choices of a log that are read; with their embeddings they are 0.6 GB in memory."""
_SOURCES = (FeedbackSource.CALLER, FeedbackSource.JUDGE, FeedbackSource.AUTOMATIC)
"""The most trusted first: whose judgement of an answer counts if several judged it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedOutcome:
    """What is known of one answer; None where nobody has said."""

    quality: float | None = None
    """0..1."""
    source: FeedbackSource | None = None
    """Who judged the quality."""
    cost_usd: float | None = None
    energy_j: float | None = None
    latency_s: float = 0.0

    def judged(self, quality: float, source: FeedbackSource) -> "LoggedOutcome":
        """With one more judgement; the more trusted one stays, of two by the same source the later."""
        if self.source is not None and _SOURCES.index(source) > _SOURCES.index(self.source):
            return self
        return replace(self, quality=quality, source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLog:
    """What a log says of choices of models."""

    choices: tuple[tuple[str, ModelDecision], ...]
    """Decision id and decision, oldest first."""
    outcomes: Mapping[str, LoggedOutcome]
    """By decision id."""

    def outcome(self, decision_id: str, decision: ModelDecision) -> ModelOutcome | None:
        """What a policy would have learnt from one choice; None if no model was chosen."""
        if decision.choice.model is None:
            return None
        known = self.outcomes.get(decision_id, LoggedOutcome())
        return ModelOutcome(
            decision_id=decision_id,
            model=decision.choice.model,
            signals=decision.signals,
            propensity=decision.choice.propensity,
            offered=tuple(decision.choice.propensities),
            quality=known.quality,
            source=known.source,
            cost_usd=known.cost_usd or 0.0,
            energy_j=known.energy_j or 0.0,
            latency_s=known.latency_s,
            at_s=decision.decided_at_s + known.latency_s,
        )


def read_model_log(files: Iterable[tuple[str, Iterable[str]]]) -> ModelLog:
    """Everything that some files say of choices of models and their outcomes.

    A last line without its line break that is not valid JSON was being written, and is skipped. Of more than
    `CHOICES_MAX` choices the newest are read.

    Args:
        files: name and lines of each, as an open text file gives them.

    Raises:
        DecisionLogError: a line is neither a decision record nor an outcome; the message has file and number.
    """
    choices: dict[str, ModelDecision] = {}
    outcomes: dict[str, LoggedOutcome] = {}
    for name, lines in files:
        for number, data in _objects(name, lines):
            try:
                _take(data, choices, outcomes)
            except (ValueError, KeyError, TypeError) as error:
                raise DecisionLogError(f"{name}, line {number}: {_words(error)}") from error
            if len(choices) >= 2 * CHOICES_MAX:
                choices = dict(_newest(choices))
    return ModelLog(choices=_newest(choices), outcomes=outcomes)


def _newest(choices: Mapping[str, ModelDecision]) -> tuple[tuple[str, ModelDecision], ...]:
    """Oldest first."""
    ordered = sorted(choices.items(), key=lambda entry: (entry[1].decided_at_s, entry[0]))
    return tuple(ordered[-CHOICES_MAX:])


def _take(
    data: dict[str, Any], choices: dict[str, ModelDecision], outcomes: dict[str, LoggedOutcome]
) -> None:
    """Add what one line says."""
    if "signals" in data:
        record: DecisionRecord = from_json(data)
        if record.model_choice is not None:
            choices[record.decision_id] = record.model_choice
        return
    given = data.get("outcome") or data.get("feedback") or data
    decision_id = given["decision_id"]
    known = outcomes.get(decision_id, LoggedOutcome())
    known = replace(
        known,
        cost_usd=_number(given, "cost_usd", known.cost_usd),
        energy_j=_number(given, "energy_j", known.energy_j),
        latency_s=_number(given, "latency_s", known.latency_s) or 0.0,
    )
    quality = _number(given, "reward", _number(given, "quality", None))
    if quality is not None:
        if not 0 <= quality <= 1:
            raise ValueError(f"the reward is {quality:g}, which is not between 0 and 1")
        known = known.judged(quality, FeedbackSource(given.get("source") or FeedbackSource.CALLER))
    outcomes[decision_id] = known


def _number(given: dict[str, Any], field: str, default: float | None) -> float | None:
    value = given.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{field} is {json.dumps(value)[:40]}, which is no number")
    return float(value)


def _objects(name: str, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except ValueError as error:
            if not line.endswith("\n"):
                return
            raise DecisionLogError(f"{name}, line {number}: {error}") from error
        if not isinstance(data, dict):
            raise DecisionLogError(f"{name}, line {number}: not a JSON object")
        yield number, data


def _words(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
