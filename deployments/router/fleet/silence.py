"""Gives up on replicas that hang: gone from the routing table, and nothing comes from them any more.

A dead process closes its connections, but a frozen one or one behind a broken network does not: whoever
waits for it would wait until its request's time is over.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from cluster.entities.pool import ReplicaId
from deployments.router.fleet.view import FleetPicture
from deployments.router.wire.upstream import ReplicaError


@dataclass(slots=True, eq=False)
class _Attempt:
    replica: ReplicaId
    progress: Callable[[], int]
    limit: asyncio.Timeout
    check: asyncio.TimerHandle | None = None


class SilenceWatch:
    """The attempts of one router. Not thread-safe."""

    def __init__(self, picture: FleetPicture, *, silence_s: float) -> None:
        """Watch for replicas that drop out of a picture.

        Args:
            picture: the router's.
            silence_s: for how long nothing may come from such a replica.
        """
        self._picture = picture
        self._silence_s = silence_s
        self._attempts: set[_Attempt] = set()
        self._version = -1
        picture.on_change(self._look)

    @contextlib.asynccontextmanager
    async def over(self, replica: ReplicaId, progress: Callable[[], int]) -> AsyncIterator[None]:
        """Wait for a replica no longer than it can be hoped for.

        Args:
            replica: asked in the block.
            progress: grows whenever something comes from it.

        Raises:
            ReplicaError: it has gone silent.
        """
        limit = asyncio.timeout(None)
        attempt = _Attempt(replica, progress, limit)
        try:
            async with limit:
                self._attempts.add(attempt)
                try:
                    yield
                finally:
                    self._attempts.discard(attempt)
                    if attempt.check is not None:
                        attempt.check.cancel()
        except TimeoutError:
            if not limit.expired():
                raise
            raise ReplicaError("the replica has gone silent", unreachable=True) from None

    def _look(self) -> None:
        if self._version == self._picture.version:
            return
        self._version = self._picture.version
        present = {report.replica_id for report in self._picture.reports()}
        for attempt in self._attempts:
            if attempt.replica in present:
                if attempt.check is not None:
                    attempt.check.cancel()
                    attempt.check = None
            elif attempt.check is None:
                self._arm(attempt)

    def _arm(self, attempt: _Attempt) -> None:
        loop = asyncio.get_running_loop()
        attempt.check = loop.call_later(self._silence_s, self._check, attempt, attempt.progress())

    def _check(self, attempt: _Attempt, progress: int) -> None:
        if attempt.progress() != progress:
            self._arm(attempt)
        else:
            attempt.limit.reschedule(asyncio.get_running_loop().time())
