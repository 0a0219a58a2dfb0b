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
_FRESH_S = 60.0
"""So long after they were read, files are taken for unchanged and still in memory."""
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

    def is_ready(self, entry: Entry) -> bool:
        """Whether it can be loaded at once."""
        if entry.staging is not None:
            return False
        return entry.in_host or (_is_fresh(entry) and not self._wants_copy(entry))

    def begin(self, entry: Entry, done: Callable[[], None], *, to_host: bool = True) -> None:
        """Start staging unless it is under way, or has failed a moment ago.

        Args:
            entry: what to stage.
            done: called at the end, however it ends.
            to_host: for a load soon; otherwise only to have the files and know what they say.
        """
        if entry.staging is None and entry.retry_at_s <= time.monotonic():
            if to_host:
                entry.staging_tier, entry.staging_since_s = entry.tier, time.monotonic()
            entry.staging = asyncio.create_task(self._run(entry, done, to_host=to_host))

    def copy_ahead(self, done: Callable[[], None]) -> None:
        """Copy one more adapter into the engine's memory that nobody waits for, while there is room to spare.

        One at a time, and only while nothing else is staged: each costs the engine two short calls.
        """
        if any(entry.staging is not None for entry in self._shelf):
            return
        left = self._config.host_bytes - sum(entry.size for entry in self._shelf if entry.in_host)
        now_s = time.monotonic()
        for entry in self._shelf.by_name.values():
            missing = entry.key and not entry.in_host and entry.retry_at_s <= now_s
            if missing and self._wants_copy(entry) and entry.size <= left:
                self.begin(entry, done)
                entry.staging_since_s = 0.0  # no page-in has begun
                return

    async def stop(self) -> None:
        """End all of them."""
        tasks = [entry.staging for entry in self._shelf if entry.staging is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, entry: Entry, done: Callable[[], None], *, to_host: bool) -> None:
        try:
            async with self._at_once:
                await self._stage(entry, to_host=to_host)
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

    async def _stage(self, entry: Entry, *, to_host: bool) -> None:
        if entry.facts is None or not _is_fresh(entry):
            self._take(entry, await self._folders.stage(entry.card))
        if to_host and self._wants_copy(entry) and not entry.in_host:
            await self._make_host_room(entry.size)
            await self._backend.prepare(entry.for_engine())
            entry.in_host = True
            if not entry.in_slot:
                entry.tier = AdapterTier.HOST
                self._moved(entry)
        elif not to_host:
            self.settle(entry)

    def _wants_copy(self, entry: Entry) -> bool:
        return self._backend.keeps_host_copies and entry.size <= self._config.host_bytes

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
        total = sum(copy.size for copy in copies)
        for entry in copies:
            if total + size <= self._config.host_bytes:
                return
            total -= entry.size
            await self.forget(entry)

    async def forget(self, entry: Entry) -> None:
        """Give up the copy in the engine's memory."""
        entry.in_host = False
        self.settle(entry)
        await self._backend.forget(entry.number)

    def settle(self, entry: Entry) -> None:
        """Nobody needs its files now: the disk may remove them if it has to."""
        if entry.in_slot or entry.in_host or entry.waiters or not entry.key:
            return
        self._folders.let_go(entry.key)
        entry.staged_at_s = float("-inf")
        if entry.tier is not AdapterTier.DISK:
            entry.tier = AdapterTier.DISK
            self._moved(entry)

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


def _is_fresh(entry: Entry) -> bool:
    return time.monotonic() - entry.staged_at_s < _FRESH_S


def cannot_load(entry: Entry) -> AdapterRefusedError:
    """What requests for an adapter are told that failed a moment ago."""
    return AdapterRefusedError(
        500, "adapter_failed", f"The adapter `{entry.card.name}` cannot be loaded: {entry.failure}"
    )
