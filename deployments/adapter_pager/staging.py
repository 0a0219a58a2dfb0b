"""Gets adapters ready to be loaded, beside the engine: files fetched and checked, copies in its memory."""

import asyncio
import logging
import time
from collections.abc import Callable

from cluster.config.adapters import PoolAdaptersConfig
from cluster.entities.adapters import AdapterTier
from cluster.metrics import adapters as metrics
from deployments.adapter_pager.backend import AdapterBackend, AdapterLoadError
from deployments.adapter_pager.entries import AdapterRefusedError, Entry, Shelf
from deployments.adapter_pager.files import AdapterFilesError
from deployments.adapter_pager.folders import AdapterFolders, StagedAdapter
from deployments.adapter_pager.metrics import PagerMetrics
from deployments.adapter_pager.sources import AdapterSourceError

logger = logging.getLogger("tidemill.adapters")

_AT_ONCE = 4
_RETRY_S_MAX = 60


class Staging:
    """One task per adapter at most, a few in all."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        config: PoolAdaptersConfig,
        folders: AdapterFolders,
        backend: AdapterBackend,
        exported: PagerMetrics,
        described: Callable[[Entry], None],
        moved: Callable[[Entry], None],
    ) -> None:
        """Begin nothing yet.

        Args:
            shelf: all adapters.
            config: ranks and memory.
            folders: the disk.
            backend: the engine.
            exported: counts failures.
            described: called when an entry's facts have become known.
            moved: called when an entry lies elsewhere than before.
        """
        self._shelf = shelf
        self._config = config
        self._folders = folders
        self._backend = backend
        self._exported = exported
        self._described = described
        self._moved = moved
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def begin(self, entry: Entry, done: Callable[[], None]) -> None:
        """Start staging unless it is under way, or has failed a moment ago."""
        if entry.staging is None and entry.retry_at_s <= time.monotonic():
            entry.staging_tier, entry.staging_since_s = entry.tier, time.monotonic()
            entry.staging = asyncio.create_task(self._run(entry, done))

    async def stop(self) -> None:
        """End all of them."""
        tasks = [entry.staging for entry in self._shelf if entry.staging is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, entry: Entry, done: Callable[[], None]) -> None:
        try:
            async with self._at_once:
                await self._stage(entry)
        except AdapterSourceError as error:
            self.failed(entry, "source", str(error))
        except AdapterFilesError as error:
            self.failed(entry, "files", str(error))
        except AdapterLoadError as error:
            self.failed(entry, "engine", str(error))
        except OSError as error:
            self.failed(entry, "files", f"{entry.card.source}: {error}")
        finally:
            entry.staging = None
            done()

    async def _stage(self, entry: Entry) -> None:
        staged = await self._folders.stage(entry.card)
        self._take(entry, staged)
        if not self._backend.keeps_host_copies or entry.in_host or entry.in_slot:
            return
        if staged.facts.bytes <= self._config.host_bytes:
            await self._make_host_room(staged.facts.bytes)
            await self._backend.prepare(entry.for_engine())
            entry.in_host = True
            entry.tier = AdapterTier.HOST
            self._moved(entry)

    def _take(self, entry: Entry, staged: StagedAdapter) -> None:
        facts = staged.facts
        if facts.rank > self._config.rank_max:
            raise AdapterFilesError(
                f"{entry.card.source}: rank {facts.rank} is above pools.*.adapters.rank_max "
                f"({self._config.rank_max})"
            )
        twin = next((e for e in self._shelf if e is not entry and e.key == facts.sha256 and e.listed), None)
        if twin is not None:
            raise AdapterFilesError(f"{entry.card.source}: the same weights as adapter {twin.card.name}")
        entry.staged_at_s = time.monotonic()
        entry.path = staged.path
        if entry.facts is None:
            entry.facts = facts
            self._described(entry)
        if not entry.in_slot and not entry.in_host:
            entry.tier = AdapterTier.STAGED
            self._moved(entry)

    async def _make_host_room(self, size: int) -> None:
        """Give up the longest unused copies, those of adapters in slots last."""
        copies = sorted((e for e in self._shelf if e.in_host), key=lambda e: (e.in_slot, e.used_at_s))
        total = sum(e.facts.bytes for e in copies if e.facts)
        for entry in copies:
            if total + size <= self._config.host_bytes:
                return
            total -= entry.facts.bytes if entry.facts else 0
            await self.forget(entry)

    async def forget(self, entry: Entry) -> None:
        """Give up the copy in the engine's memory."""
        await self._backend.forget(entry.number)
        entry.in_host = False
        if not entry.in_slot:
            entry.tier = AdapterTier.DISK
            self._moved(entry)

    def let_go(self, entry: Entry) -> None:
        """The files may be removed from the disk."""
        if entry.key:
            self._folders.let_go(entry.key)

    def failed(self, entry: Entry, part: str, why: str) -> None:
        """Tell everybody who waits, and try again later: sooner the first time than the fifth."""
        entry.failures += 1
        wait_s = min(_RETRY_S_MAX, 2 ** (entry.failures - 1))
        entry.failure, entry.retry_at_s = why, time.monotonic() + wait_s
        entry.staging_since_s = 0.0
        entry.staged_at_s = float("-inf")
        self._exported.count(metrics.ADAPTER_FAILURES, part)
        logger.warning("adapter %s cannot be loaded (%s): %s", entry.card.name, part, why)
        while entry.waiters:
            waiter = entry.waiters.popleft()
            if not waiter.admitted.done():
                waiter.admitted.set_exception(cannot_load(entry))


def cannot_load(entry: Entry) -> AdapterRefusedError:
    """What requests for an adapter are told that failed a moment ago."""
    return AdapterRefusedError(
        500, "adapter_failed", f"The adapter `{entry.card.name}` cannot be loaded: {entry.failure}"
    )
