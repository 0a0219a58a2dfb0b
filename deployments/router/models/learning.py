"""The router's side of learning: outcomes on their way to the learner, snapshots on their way back, feedback.

Nothing here is waited for by a request for tokens: outcomes gather in a bounded outbox, snapshots are polled.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from cluster.config.model_learning import ModelLearningConfig
from deployments.model_learning.interface import Learner, LearnerAwayError, ModelSnapshot
from deployments.model_learning.state import Event, Feedback, FeedbackResult
from deployments.router.wire.errors import overloaded

logger = logging.getLogger("tidemill.router.learning")

_GATHER_S = 0.1
"""Outcomes of so long a time travel together."""
_RETRY_S = 1.0
_BATCH_MAX = 500
_ASKS = 3
_ASK_AGAIN_S = 0.3
"""What is unknown may still be in another router's outbox, so it is asked for again."""


class LearningLink:
    """One router's connection to the learner."""

    def __init__(
        self,
        config: ModelLearningConfig,
        learner: Learner,
        *,
        apply: Callable[[ModelSnapshot], None],
        on_drop: Callable[[], None],
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            config: bounds.
            learner: the other side.
            apply: takes a snapshot.
            on_drop: called for every event that is lost because the learner is away for too long.
        """
        self._config = config
        self._learner = learner
        self._apply = apply
        self._on_drop = on_drop
        self._outbox: deque[Event] = deque()
        self._something = asyncio.Event()
        self._sending = asyncio.Lock()
        self._tasks: list[asyncio.Task[Any]] = []

    def start(self) -> None:
        """Begin sending and polling in the background."""
        self._tasks = [asyncio.create_task(self._send_for_ever()), asyncio.create_task(self._watch())]

    async def close(self) -> None:
        """Send what waits, if the learner takes it now, and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_RETRY_S):
                await self._send()
        except (LearnerAwayError, TimeoutError) as error:
            logger.warning("%d outcomes are lost with this router: %s", len(self._outbox), error)

    def add(self, *events: Event) -> None:
        """Take events. Never waits."""
        for event in events:
            if len(self._outbox) >= self._config.outbox_max:
                self._on_drop()
                continue
            self._outbox.append(event)
        self._something.set()

    async def judge(self, feedback: Feedback) -> FeedbackResult:
        """Bring one judgement to the learner and say what became of it.

        Raises:
            ApiError: 503, the learner is away.
        """
        try:
            async with asyncio.timeout(self._config.feedback_timeout_s):
                for ask in range(_ASKS):
                    await asyncio.sleep(_ASK_AGAIN_S if ask else 0)
                    await self._send()  # the decision itself may still be waiting here
                    result = await self._learner.judge(feedback)
                    if result is not FeedbackResult.UNKNOWN:
                        break
                return result
        except TimeoutError:
            raise overloaded("The learner did not answer in time.", status=503, retry_after_s=2) from None
        except LearnerAwayError as error:
            raise overloaded(f"The learner is away: {error}", status=503, retry_after_s=2) from error

    async def _send(self) -> None:
        async with self._sending:
            while self._outbox:
                batch = [self._outbox[place] for place in range(min(_BATCH_MAX, len(self._outbox)))]
                await self._learner.take(batch)
                for _ in batch:
                    self._outbox.popleft()

    async def _send_for_ever(self) -> None:
        while True:
            await self._something.wait()
            await asyncio.sleep(_GATHER_S)
            self._something.clear()
            try:
                await self._send()
            except LearnerAwayError as error:
                logger.warning("outcomes not delivered: %s", error)
                self._something.set()
                await asyncio.sleep(_RETRY_S)

    async def _watch(self) -> None:
        version = -1
        while True:
            try:
                snapshot = await self._learner.watch(version)
            except LearnerAwayError as error:
                logger.warning("learner away, choosing models from the last snapshot: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            self._apply(snapshot)
            version = snapshot.version
            await asyncio.sleep(self._config.publish_period_s)
