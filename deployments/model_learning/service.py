"""The learner itself: state, files, and a condition to wake watchers with. It needs no Ray."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.config import TidemillConfig
from cluster.entities.model_routing import ModelOutcome
from cluster.policy.routing.models.categories import CATEGORIES
from cluster.policy.routing.models.policies import model_policy
from deployments.model_learning.interface import ModelSnapshot
from deployments.model_learning.state import Event, Feedback, FeedbackResult, LearnerState
from deployments.model_learning.store import LearnerStore

logger = logging.getLogger("tidemill.model_learning")

FOLDER = "model-routing"
"""Of its files, in the state folder."""
WATCH_TIMEOUT_S = 2.0
"""A watcher hears at least this often that nothing is new."""


class ModelLearner:
    """What was learnt, and who may learn of it."""

    def __init__(self, config: TidemillConfig, state_dir: str) -> None:
        learning = config.routing.learning
        policy = model_policy(
            config.routing.models,
            tuple(config.models),
            categories=CATEGORIES,
            warm_start=Path(learning.warm_start).read_bytes() if learning.warm_start else None,
        )
        self._learner = LearnerState(
            policy, pending_max=learning.pending_max, window_s=learning.feedback_window_s
        )
        self._store = LearnerStore(Path(state_dir) / FOLDER, policy.name, learning) if state_dir else None
        self._notes = self._store.restore(self._learner) if self._store else []
        for note in self._notes:
            logger.warning("restoring what was learnt: %s", note)
        self._turn = asyncio.Lock()
        """Events are written and applied in one order."""
        self._changed = asyncio.Condition()

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
        await self._save_if_due()
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
        """For people and tests: version, pending decisions, process, and what a restart could not read."""
        return {
            "policy": self._learner.policy.name,
            "version": self._learner.version,
            "pending": len(self._learner.pending),
            "notes": list(self._notes),
            "pid": os.getpid(),
        }

    async def _save_if_due(self) -> None:
        if self._store is None or not self._store.is_full:
            return
        try:
            await asyncio.to_thread(self._store.save, self._learner)
        except OSError as error:
            logger.error("snapshot not written: %s", error)  # noqa: TRY400 - the trace says no more


def _key(event: Event) -> str:
    return "outcome" if isinstance(event, ModelOutcome) else event.key
