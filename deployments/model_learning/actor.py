"""The learner as a named Ray actor, and how routers reach it.

Only outcomes, feedback and snapshots pass through it, never a request: routers choose models from their last
snapshot whether it is there or not.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray

from cluster.config import TidemillConfig
from cluster.entities.model_routing import ModelOutcome
from cluster.policy.routing.models.policies import model_policy
from deployments.directory.actor import NAMESPACE
from deployments.model_learning.state import Event, Feedback, FeedbackResult, LearnerState
from deployments.model_learning.store import LearnerStore

logger = logging.getLogger("tidemill.model_learning")

ACTOR_NAME = "tidemill-model-learner"
FOLDER = "model-routing"
"""Of its files, in the state folder."""
WATCH_TIMEOUT_S = 2.0
"""A watcher hears at least this often that nothing is new."""
_CALL_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 120.0


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


class ModelLearner:
    """The actor's body: state, files, and a condition to wake watchers with."""

    def __init__(self, config: TidemillConfig, state_dir: str) -> None:
        learning = config.routing.learning
        policy = model_policy(config.routing.models, tuple(config.models))
        self._persist_period_s = learning.persist_period_s
        self._learner = LearnerState(
            policy, pending_max=learning.pending_max, window_s=learning.feedback_window_s
        )
        self._store = LearnerStore(Path(state_dir) / FOLDER, policy.name) if state_dir else None
        self._notes = self._store.restore(self._learner) if self._store else []
        for note in self._notes:
            logger.warning("restoring what was learnt: %s", note)
        self._saved_version = -1
        self._turn = asyncio.Lock()
        """Events are written and applied in one order."""
        self._changed = asyncio.Condition()
        self._saving = asyncio.ensure_future(self._keep_saving())

    async def take(self, events: Sequence[Event]) -> None:
        """Take what a router has gathered."""
        async with self._turn:
            fresh: dict[tuple[str, str], Event] = {}
            arriving = {event.decision_id for event in events if isinstance(event, ModelOutcome)}
            for event in events:
                # A signal on a decision that comes in the same batch is not unknown.
                result = self._learner.would(event)
                if result is FeedbackResult.COUNTED or (
                    result is FeedbackResult.UNKNOWN and event.decision_id in arriving
                ):
                    fresh.setdefault((event.decision_id, _key(event)), event)
            await self._learn(list(fresh.values()))

    async def judge(self, feedback: Feedback) -> FeedbackResult:
        """Take one judgement."""
        async with self._turn:
            result = self._learner.would(feedback)
            if result is FeedbackResult.COUNTED:
                await self._learn([feedback])
            return result

    async def _learn(self, events: list[Event]) -> None:
        """Write first, learn then: what was acknowledged is known again after a restart."""
        if not events:
            return
        if self._store is not None:
            try:
                await asyncio.to_thread(self._store.append, events)
            except OSError as error:
                # A full disk costs the memory of a restart, not the learning.
                logger.error("outcomes not written: %s", error)  # noqa: TRY400 - the trace says no more
        for event in events:
            self._learner.apply(event)
        async with self._changed:
            self._changed.notify_all()

    async def watch(self, version: int) -> ModelSnapshot:
        """What is known, as soon as it is of another version."""
        if self._learner.version == version:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_TIMEOUT_S), self._changed:
                    await self._changed.wait()
        return ModelSnapshot(
            policy=self._learner.policy.name, version=self._learner.version, state=self._learner.state
        )

    async def overview(self) -> dict[str, Any]:
        """For people and tests: version, pending decisions, and what a restart could not read."""
        return {
            "policy": self._learner.policy.name,
            "version": self._learner.version,
            "pending": len(self._learner.pending),
            "notes": list(self._notes),
        }

    async def close(self) -> None:
        """Write what was learnt and stop."""
        self._saving.cancel()
        await self._save()

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(self._persist_period_s)
            await self._save()

    async def _save(self) -> None:
        if self._store is None or self._learner.version == self._saved_version:
            return
        async with self._turn:
            version = self._learner.version
            try:
                await asyncio.to_thread(self._store.save, self._learner)
            except OSError as error:
                logger.error("snapshot not written: %s", error)  # noqa: TRY400 - the trace says no more
                return
            self._saved_version = version


def _key(event: Event) -> str:
    return "outcome" if isinstance(event, ModelOutcome) else event.key


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
