"""What the learner knows, without Ray, disk or clock: the policy's state, and decisions it may yet hear of.

Everything that changes it is an event (an outcome, or feedback on one), applied in the order of the journal.
So a learner that is restarted arrives at the same state by reading its last snapshot and the events since.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from cluster.entities.model_routing import FeedbackSource, ModelOutcome
from cluster.policy.routing.models.interface import ModelPolicy

logger = logging.getLogger("tidemill.model_learning")


class FeedbackResult(StrEnum):
    """What became of feedback."""

    COUNTED = "counted"
    REPEATED = "repeated"
    """The same judgement again: counted once."""
    CONFLICTING = "conflicting"
    """Another judgement by the same source: refused, because what was learnt cannot be taken back."""
    UNKNOWN = "unknown"
    """No such decision, its window is over, or it was made for another tenant."""
    DAMAGED = "damaged"
    """It holds numbers that are none: one of them in a mean is a mean no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One judgement of one answer."""

    decision_id: str
    reward: float
    """0..1."""
    source: FeedbackSource
    signal: str = ""
    """Which of a source's signals it is; each counts once."""
    at_s: float
    """Unix time."""
    tenant: str | None = None
    """Who judges, and may judge its own answers only; None for those who may judge every answer."""

    def concerns(self, tenant: str) -> bool:
        """Whether an answer that was given to a tenant is this judge's to judge."""
        return self.tenant in (None, tenant)

    @property
    def key(self) -> str:
        """What may count once for a decision."""
        return f"{self.source.value}:{self.signal}" if self.signal else self.source.value


Event = ModelOutcome | Feedback


@dataclass(slots=True)
class PendingDecision:
    """A decision that feedback may still come for."""

    outcome: ModelOutcome
    """Without quality."""
    rewards: dict[str, float] = field(default_factory=dict)
    """By key of the feedback that has counted."""


class LearnerState:
    """Single-threaded; every method takes the time from the event it is given."""

    def __init__(self, policy: ModelPolicy[Any], *, pending_max: int, window_s: float) -> None:
        """Start with what the policy knows before anything was learnt.

        Args:
            policy: what learns.
            pending_max: decisions that feedback may still come for; the oldest go first.
            window_s: how long it may come, by the clocks of the routers.
        """
        self.policy = policy
        self.state: Any = policy.initial()
        self.version = 0
        """Grows with every change of the policy's state."""
        self._pending: OrderedDict[str, PendingDecision] = OrderedDict()
        self._pending_max = pending_max
        self._window_s = window_s

    @property
    def pending(self) -> tuple[PendingDecision, ...]:
        """Oldest first."""
        return tuple(self._pending.values())

    def restore(self, state: Any, version: int, pending: Iterable[PendingDecision]) -> None:
        """Go on from a snapshot."""
        self.state, self.version = state, version
        self._pending = OrderedDict((entry.outcome.decision_id, entry) for entry in pending)
        while len(self._pending) > self._pending_max:
            self._pending.popitem(last=False)

    def would(self, event: Event) -> FeedbackResult:
        """What applying an event would give, so that only what counts goes to the journal."""
        if not all(map(math.isfinite, _numbers(event))):
            return FeedbackResult.DAMAGED
        if isinstance(event, ModelOutcome):
            known = event.decision_id in self._pending
            return FeedbackResult.REPEATED if known else FeedbackResult.COUNTED
        entry = self._pending.get(event.decision_id)
        if entry is None or not event.concerns(entry.outcome.signals.tenant):
            return FeedbackResult.UNKNOWN
        if event.at_s - entry.outcome.at_s > self._window_s:
            return FeedbackResult.UNKNOWN
        before = entry.rewards.get(event.key)
        if before is None:
            return FeedbackResult.COUNTED
        return FeedbackResult.REPEATED if before == event.reward else FeedbackResult.CONFLICTING

    def apply(self, event: Event) -> FeedbackResult:
        """Learn from an event, once."""
        result = self.would(event)
        if result is FeedbackResult.COUNTED:
            if isinstance(event, ModelOutcome):
                self._begin(event)
            else:
                self._judge(event)
            self.version += 1
        return result

    def _begin(self, outcome: ModelOutcome) -> None:
        self._pending[outcome.decision_id] = PendingDecision(replace(outcome, quality=None, source=None))
        # By number only: by age, one router whose clock is ahead would make all others' decisions forgotten.
        while len(self._pending) > self._pending_max:
            self._pending.popitem(last=False)
        self._learn(outcome, outcome.at_s)

    def _judge(self, feedback: Feedback) -> None:
        entry = self._pending[feedback.decision_id]
        entry.rewards[feedback.key] = feedback.reward
        judged = replace(entry.outcome, quality=feedback.reward, source=feedback.source, counted=True)
        self._learn(judged, feedback.at_s)

    def _learn(self, outcome: ModelOutcome, now_s: float) -> None:
        try:
            self.state = self.policy.learn(self.state, outcome, now_s=now_s)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            # It would come again from its router for ever, and from the journal with every restart.
            logger.exception("an outcome of %s cannot be learnt from: %s", outcome.model, outcome.decision_id)


def _numbers(event: Event) -> Iterable[float]:
    if isinstance(event, Feedback):
        return (event.reward, event.at_s)
    return (
        event.cost_usd,
        event.energy_j,
        event.predicted_cost_usd,
        event.predicted_energy_j,
        event.ttft_s,
        event.latency_s,
        event.propensity,
        event.at_s,
        event.quality or 0.0,
        *event.signals.embedding,
    )
