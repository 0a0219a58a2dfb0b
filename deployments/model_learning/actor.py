"""The learner as a named Ray actor, and how routers reach it.

Only outcomes, feedback and snapshots pass through it, never a request: routers choose models from their last
snapshot whether it is there or not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.config import TidemillConfig
from deployments.directory.head_actors import ActorAwayError, NamedActor, start_on_head
from deployments.model_learning.interface import LearnerAwayError, ModelSnapshot
from deployments.model_learning.service import ModelLearner
from deployments.model_learning.state import Event, Feedback, FeedbackResult

ACTOR_NAME = "tidemill-model-learner"
_CALL_TIMEOUT_S = 10.0


def start_learner(config: TidemillConfig, state_dir: Path) -> None:
    """Create the actor, or put the running one's successor with this configuration in its place."""
    start_on_head(
        ModelLearner, config, str(state_dir), name=ACTOR_NAME, max_concurrency=1000, wait_for="overview"
    )


class RemoteLearner:
    """One process's connection to the actor; survives its restart."""

    def __init__(self) -> None:
        self._actor = NamedActor(ACTOR_NAME, timeout_s=_CALL_TIMEOUT_S)

    async def take(self, events: Sequence[Event]) -> None:
        """See `Learner`."""
        await self._call("take", list(events))

    async def judge(self, feedback: Feedback) -> FeedbackResult:
        """See `Learner`."""
        found: FeedbackResult = await self._call("judge", feedback)
        return found

    async def watch(self, version: int) -> ModelSnapshot:
        """See `Learner`."""
        found: ModelSnapshot = await self._call("watch", version)
        return found

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await self._actor.call(method, *arguments)
        except ActorAwayError as error:
            raise LearnerAwayError(str(error)) from error
