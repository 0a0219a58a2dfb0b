"""The learner as a named Ray actor, and how routers reach it.

Only outcomes, feedback and snapshots pass through it, never a request: routers choose models from their last
snapshot whether it is there or not.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from cluster.config import TidemillConfig
from deployments.directory.actor import NAMESPACE
from deployments.model_learning.interface import LearnerAwayError, ModelSnapshot
from deployments.model_learning.service import ModelLearner
from deployments.model_learning.state import Event, Feedback, FeedbackResult

ACTOR_NAME = "tidemill-model-learner"
_CALL_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 120.0


def start_learner(config: TidemillConfig, state_dir: Path) -> None:
    """Create the actor, or put the running one's successor with this configuration in its place."""
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(ACTOR_NAME, NAMESPACE), no_restart=True)
    started = (
        ray.remote(ModelLearner)
        .options(
            name=ACTOR_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=0,
            # On the head, where its files are.
            resources={"node:__internal_head__": 0.001},
            max_restarts=-1,
            max_concurrency=1000,
        )
        .remote(config, str(state_dir))
    )
    # An actor whose creation is pending dies with the driver that asked for it, detached or not.
    ray.get(started.overview.remote(), timeout=_START_TIMEOUT_S)


class RemoteLearner:
    """One process's connection to the actor; survives its restart."""

    def __init__(self) -> None:
        self._handle: Any = None

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
            # Calls of an actor that Ray cannot restart for now wait without an error.
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                if self._handle is None:
                    self._handle = await asyncio.to_thread(ray.get_actor, ACTOR_NAME, NAMESPACE)
                return await getattr(self._handle, method).remote(*arguments)
        except (ray.exceptions.RayError, ValueError, TimeoutError) as error:
            self._handle = None
            raise LearnerAwayError(f"{type(error).__name__}: {error}") from error
