"""The one thread on which the cache's documents are read and written, and what waits for it.

It exists so that the event loop never waits for a disk or a server, and so that documents that hang hold up
look-ups for `documents.wait_s` once: until they have answered what was late, others go on without them.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cluster.config.semantic_cache import DocumentsConfig
from deployments.semantic_cache.near_counts import NearCounts

logger = logging.getLogger("tidemill.cache.near")

Result = TypeVar("Result")


class DocumentsAwayError(Exception):
    """The documents do not answer in time."""


class DocumentThread:
    """All methods belong to one event loop.

    Args:
        config: How long is waited and how much waits.
        counts: Where to count what is left out.
    """

    def __init__(self, config: DocumentsConfig, counts: NearCounts) -> None:
        self._config = config
        self._counts = counts
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="documents")
        self._writes = 0
        self._late: asyncio.Future[Any] | None = None

    async def run(self, work: Callable[[], Result]) -> Result:
        """Does something however long it takes."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def refuse_if_away(self) -> None:
        """Call it before something is begun for a look-up: what is begun is done, late or not.

        Raises:
            DocumentsAwayError: What somebody else waited for too long is not done yet.
        """
        if self._late is not None and not self._late.done():
            self._counts.away += 1
            raise DocumentsAwayError

    async def in_time(self, begun: "asyncio.Future[Result]") -> Result:
        """The outcome of something for a look-up, which goes on by itself if it takes too long.

        Raises:
            DocumentsAwayError: It has taken `documents.wait_s`.
        """
        done, _ = await asyncio.wait({begun}, timeout=self._config.wait_s)
        if not done:
            self._late = begun
            begun.add_done_callback(_log_failure)
            self._counts.away += 1
            raise DocumentsAwayError
        return begun.result()

    async def ask(self, work: Callable[[], Result]) -> Result:
        """Does something for a look-up.

        Raises:
            DocumentsAwayError: See `in_time`.
        """
        self.refuse_if_away()
        return await self.in_time(asyncio.get_running_loop().run_in_executor(self._thread, work))

    def write(self, work: Callable[[], None]) -> None:
        """Does something in the background, unless too much waits."""
        if self._writes >= self._config.write_backlog_max:
            self._counts.unwritten += 1
            return
        self._writes += 1
        written = asyncio.get_running_loop().run_in_executor(self._thread, work)
        written.add_done_callback(self._written)

    def close(self) -> None:
        """Waits for what was begun."""
        self._thread.shutdown()

    def _written(self, done: "asyncio.Future[None]") -> None:
        self._writes -= 1
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._counts.unwritten += 1
            logger.warning("the cache's documents: %s: %s", type(error).__name__, error)


def _log_failure(done: "asyncio.Future[Any]") -> None:
    error = None if done.cancelled() else done.exception()
    if error is not None:
        logger.warning("the cache's documents came late: %s: %s", type(error).__name__, error)
