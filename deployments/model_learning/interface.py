"""The learner as routers see it, wherever it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.model_learning.state import Event, Feedback, FeedbackResult


class LearnerAwayError(Exception):
    """The learner does not answer now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSnapshot:
    """What was learnt, for routers to choose from."""

    policy: str
    version: int
    state: Any


class Learner(Protocol):
    """The learner as routers see it. All methods raise LearnerAwayError when it does not answer."""

    async def take(self, events: Sequence[Event]) -> None:
        """Learn from outcomes and signals; what it knows already changes nothing."""

    async def judge(self, feedback: Feedback) -> FeedbackResult:
        """Learn from one judgement and say what became of it."""

    async def watch(self, version: int) -> ModelSnapshot:
        """What is known, as soon as it is of another version; after a while as it is."""
