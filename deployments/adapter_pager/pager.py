"""The pager of one engine: lets requests in when their adapter is in a slot, learns, and decides what stays.

It needs nobody: catalogue, placement and what other nodes learnt come from a coordinator if there is one, and
while it is away the node goes on with what it has.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cluster.config.adapters import PoolAdaptersConfig
from cluster.entities.adapters import (
    AdapterCatalogue,
    AdapterPlacement,
    AdapterResidency,
    AdapterTier,
)
from cluster.metrics import adapters as metrics
from cluster.policy.paging.contributions import Contribution
from cluster.policy.paging.core import PagerCore
from cluster.policy.paging.interface import Numbers, PagedAdapter
from deployments.adapter_pager.backend import AdapterBackend
from deployments.adapter_pager.entries import (
    AdapterRefusedError,
    AdapterRequest,
    Entry,
    Running,
    Shelf,
    Visit,
    Waiter,
)
from deployments.adapter_pager.folders import AdapterFolders
from deployments.adapter_pager.learning import OutcomeBook
from deployments.adapter_pager.memory import PagerMemory
from deployments.adapter_pager.metrics import PagerMetrics
from deployments.adapter_pager.page_loop import PageLoop
from deployments.adapter_pager.staging import Staging, cannot_load

logger = logging.getLogger("tidemill.adapters")

_CHOICES_TOLD = 16
"""Choices after which routers are to hear that doubt has shrunk, judged or not."""


class AdapterPager:
    """All of it runs on one event loop."""

    def __init__(
        self,
        *,
        base: str,
        config: PoolAdaptersConfig,
        core: PagerCore,
        dimension: int,
        folders: AdapterFolders,
        backend: AdapterBackend,
        memory: PagerMemory,
        seats: int,
    ) -> None:
        """Know no adapter yet.

        Args:
            base: the served model.
            config: what this replica may hold.
            core: decisions and statistics, without a catalogue.
            dimension: of the vectors that stand for requests.
            folders: the disk.
            backend: the engine.
            memory: what is kept over a restart.
            seats: requests that the engine runs at a time.
        """
        self._base = base
        self._config = config
        self._core = core
        self._dimension = dimension
        self._memory = memory
        self._backend = backend
        self._catalogue_version = -1
        self._placement = AdapterPlacement(version=-1)
        self._replaced: dict[str, str] = {}
        self._changes = 0
        self.exported = PagerMetrics()
        self.outcomes = OutcomeBook(core, dimension=dimension, exported=self.exported)
        self.shelf = Shelf()
        self._staging = Staging(
            self.shelf,
            config=config,
            folders=folders,
            backend=backend,
            exported=self.exported,
            described=self._describe,
            moved=self._moved,
        )
        self.loop = PageLoop(
            self.shelf,
            core,
            config=config,
            backend=backend,
            staging=self._staging,
            exported=self.exported,
            seats=config.running_max or seats,
        )
        self._folders = folders
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Reconcile with the engine and begin; the catalogue may come before or after."""
        await self.loop.reconcile(await self._backend.report())
        self.loop.start()
        self._tasks = [asyncio.create_task(self._memory.keep(self._core))]

    async def stop(self) -> None:
        """Keep what was learnt, and end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.loop.stop()
        await self._staging.stop()
        await self._memory.save(self._core)

    # Requests

    async def enter(self, request: AdapterRequest, *, request_id: str = "") -> Visit:
        """Wait until a request may run.

        Raises:
            AdapterRefusedError: it may not.
        """
        try:
            return await self._enter(request, request_id)
        except AdapterRefusedError as error:
            if request.open and self._config.degrade != "never" and request.adapter in self.shelf.by_name:
                tier = self.shelf.by_name[request.adapter].tier
                return Visit(running=self._degraded(request), tier=tier, waited_s=0.0)
            self.exported.count(metrics.ADAPTER_REFUSED, error.code)
            raise

    async def _enter(self, request: AdapterRequest, request_id: str) -> Visit:
        entry = self.shelf.by_name.get(request.adapter)
        if entry is None:
            raise _unknown(self._base, request.adapter)
        now_s, tier = time.monotonic(), entry.tier
        self.outcomes.arrived(request_id)
        self._tell(entry, request)
        if entry.in_slot and not entry.draining and not entry.waiters and self.loop.has_seat:
            self._hit(entry)
            return Visit(running=entry.run(request), tier=tier, waited_s=0.0)
        if entry.retry_at_s > now_s:
            raise cannot_load(entry)
        if self.shelf.parked >= self._config.parked_max:
            raise AdapterRefusedError(
                503, "adapters_busy", "Too many requests wait for their adapter.", retry_after_s=1
            )
        waiter = Waiter(request=request, since_s=now_s, admitted=asyncio.get_running_loop().create_future())
        entry.waiters.append(waiter)
        self.loop.wake()
        running = await self._parked(waiter)
        waited_s = time.monotonic() - now_s
        self.exported.observe(metrics.ADAPTER_PARKED, waited_s)
        return Visit(running=running, tier=tier, waited_s=waited_s)

    def _tell(self, entry: Entry, request: AdapterRequest) -> None:
        """Controllers and counters hear of every request."""
        self.exported.count(metrics.ADAPTER_REQUESTS, entry.tier.value)
        if request.explored:
            self.exported.count(metrics.ADAPTER_EXPLORED)
        if not entry.key or entry.key not in self._core.keys:
            return
        x = np.array(request.x) if len(request.x) == self._dimension else np.zeros(self._dimension)
        known = request.open and len(request.x) == self._dimension
        scored = self._core.statistics.scored(x)
        if known:
            lost = float(scored.mean.max() - scored.mean[self._core.row(entry.key)])
            self.exported.count(metrics.ADAPTER_REGRET, by=max(0.0, lost))
        self._core.requested(entry.key, x, named=not known, forced=request.explored, scored=scored)
        plan = self._core.plan()
        if plan is not None:
            self.exported.count(metrics.ADAPTER_PLANS, plan.reason.value)
            self.exported.set(metrics.ADAPTER_PLAN_OBJECTIVE, plan.objective)
            self.loop.plan = plan
            self.loop.wake()

    def _hit(self, entry: Entry) -> None:
        entry.used_at_s = time.monotonic()
        if entry.prefetched:
            entry.prefetched = False
            self.exported.count(metrics.ADAPTER_PREFETCHES, "useful")

    async def _parked(self, waiter: Waiter) -> Running | None:
        degrades = waiter.request.open and self._config.degrade != "never"
        limit_s = self._config.park_timeout_s
        if degrades:
            limit_s = min(limit_s, self._config.degrade_after_s)
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(waiter.admitted)
        except TimeoutError:
            self._give_up(waiter)
            if degrades:
                return self._degraded(waiter.request)
            raise AdapterRefusedError(
                503,
                "adapter_wait_timed_out",
                f"The adapter `{waiter.request.adapter}` was not in the engine within {limit_s:g} s.",
                retry_after_s=1,
            ) from None
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise

    def _give_up(self, waiter: Waiter) -> None:
        """Take a request out of the line; if it was let in at this very moment, count it out."""
        if waiter.admitted.done():
            if not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
                self.leave(waiter.admitted.result())
            return
        waiter.admitted.cancel()
        for entry in self.shelf:
            if waiter in entry.waiters:
                entry.waiters.remove(waiter)
        self.loop.wake()

    def _degraded(self, request: AdapterRequest) -> Running | None:
        free = [e for e in self.shelf.by_name.values() if e.in_slot and not e.draining and e.key]
        if self._config.degrade == "base" or not free:
            self.exported.count(metrics.ADAPTER_DEGRADED, "base")
            return None
        x = np.array(request.x) if len(request.x) == self._dimension else np.zeros(self._dimension)
        mean = self._core.statistics.scored(x).mean
        best = max(free, key=lambda entry: mean[self._core.row(entry.key)])
        self.exported.count(metrics.ADAPTER_DEGRADED, "resident")
        self._hit(best)
        return best.run(request)

    def leave(self, running: Running | None) -> None:
        """A request's answer is over."""
        if running is None:
            return
        running.entry.running.discard(running)
        running.entry.used_at_s = time.monotonic()
        if not running.entry.running or self.shelf.parked:
            self.loop.wake()

    # The catalogue

    @property
    def catalogue_version(self) -> int:
        """Of the newest catalogue that was taken up."""
        return self._catalogue_version

    def set_catalogue(self, catalogue: AdapterCatalogue) -> int:
        """Take up a catalogue, unless a newer one is known; the version there is now."""
        if catalogue.version <= self._catalogue_version:
            return self._catalogue_version
        self._catalogue_version = catalogue.version
        cards = {card.name: card for card in catalogue.adapters if card.base_model == self._base}
        pins = [name for name, card in sorted(cards.items()) if card.pinned]
        for name in pins[self._config.pins_max :]:
            logger.warning("adapter %s stays unpinned: %d slots may be", name, self._config.pins_max)
            cards[name] = replace(cards[name], pinned=False)
        for name in set(self.shelf.by_name) - set(cards):
            self._unlist(self.shelf.by_name.pop(name), _unknown(self._base, name))
        for name, card in cards.items():
            old = self.shelf.by_name.get(name)
            if old is not None and card.source == old.card.source and card.sha256 in {"", old.key}:
                old.card = replace(card, sha256=old.key)
                continue
            # A remote source is not asked again; in a folder the files may have changed, and a look is cheap.
            known = card.sha256 or (self._memory.sha256_of(card.source) if "://" in card.source else "")
            entry = Entry(card=replace(card, sha256=known))
            if old is not None:
                entry.waiters, old.waiters = old.waiters, entry.waiters
                self._unlist(old, None)
                self._replaced[name] = old.key
            if known and self._folders.has(known):
                entry.tier = AdapterTier.DISK
            self.shelf.by_name[name] = entry
            elsewhere = known in {adapter.key for adapter in self._memory.adapters} and not self._folders.has(
                known
            )
            if not entry.waiters and not elsewhere:  # to know what its files say
                self._staging.begin(entry, self.loop.wake, to_host=False)
        self._refresh_core()
        self.loop.wake()
        return self._catalogue_version

    def _unlist(self, entry: Entry, refusal: AdapterRefusedError | None) -> None:
        entry.listed = False
        self.shelf.leaving.append(entry)
        while entry.waiters and refusal is not None:
            waiter = entry.waiters.popleft()
            if not waiter.admitted.done():
                waiter.admitted.set_exception(refusal)

    def _describe(self, entry: Entry) -> None:
        """An adapter's files were seen for the first time."""
        assert entry.facts is not None  # noqa: S101 - that is why this was called
        before = self._memory.sha256_of(entry.card.source)
        if before not in {"", entry.facts.sha256}:
            self._replaced.setdefault(entry.card.name, before)
        self._memory.describe(entry.card.source, entry.facts.sha256)
        entry.card = replace(entry.card, sha256=entry.facts.sha256)
        entry.number = self._memory.number_of(entry.facts.sha256)
        self._refresh_core()
        for waiter in entry.waiters:
            self._tell_again(entry, waiter)

    def _tell_again(self, entry: Entry, waiter: Waiter) -> None:
        """Count a request that came before anything was known of its adapter."""
        x = np.array(waiter.request.x) if len(waiter.request.x) == self._dimension else None
        zeros: Numbers = np.zeros(self._dimension)
        self._core.requested(entry.key, zeros if x is None else x, named=x is None or not waiter.request.open)

    def _refresh_core(self) -> None:
        """Tell the decisions which adapters there are: those whose files were seen."""
        known = [entry for entry in self.shelf if entry.facts is not None and (entry.listed or entry.in_slot)]
        adapters = {
            entry.key: PagedAdapter(
                key=entry.key,
                bytes=entry.size,
                pinned=entry.card.pinned and entry.listed,
                prior_utility=entry.card.prior_utility,
                replaces=entry.card.replaces or self._replaced.get(entry.card.name, ""),
            )
            for entry in known
        }
        remembered = {adapter.key: adapter for adapter in self._memory.adapters}
        for entry in self.shelf.by_name.values():
            before = entry.card.sha256 or self._memory.sha256_of(entry.card.source)
            if entry.facts is None and before in remembered:  # until its files were seen
                adapters.setdefault(before, remembered[before])
        self._memory.adapters = tuple(adapters.values())
        self._core.set_catalogue(self._memory.adapters)
        for entry in known:
            if not entry.in_slot:
                self._moved(entry)

    def _moved(self, entry: Entry) -> None:
        if entry.key in self._core.keys:
            self._core.set_tier(entry.key, entry.tier.value)

    # What a coordinator and routers tell and ask

    def set_placement(self, placement: AdapterPlacement) -> int:
        """Have these adapters near, unless a newer placement is known; the version there is now."""
        if placement.version > self._placement.version:
            self._placement = placement
            for entry in self.shelf.by_name.values():
                if entry.card.sha256 in placement.adapters and entry.tier is AdapterTier.REMOTE:
                    self._staging.begin(entry, self.loop.wake, to_host=False)
        return self._placement.version

    def merge(self, contributions: Sequence[Contribution]) -> None:
        """Take up what other nodes saw."""
        self._core.merge(contributions)
        self._changes += 1

    @property
    def core(self) -> PagerCore:
        """Decisions and statistics."""
        return self._core

    @property
    def placement(self) -> AdapterPlacement:
        """The newest placement that was taken up."""
        return self._placement

    @property
    def version(self) -> str:
        """Another one whenever routers should know something else than before."""
        core = self._core
        residents = hash((core.resident, core.keys))
        told = core.statistics
        narrowed = told.choices // _CHOICES_TOLD
        parts = (told.source, told.version, narrowed, self._changes, residents, core.forced())
        return "-".join(map(str, parts))

    @property
    def running(self) -> int:
        """Requests with an adapter in the engine."""
        return self.shelf.running

    def residency(self) -> tuple[AdapterResidency, ...]:
        """Where every adapter of the catalogue is."""
        return tuple(
            AdapterResidency(name=name, sha256=entry.key, tier=entry.tier, pinned=entry.card.pinned)
            for name, entry in sorted(self.shelf.by_name.items())
        )


def _unknown(base: str, name: str) -> AdapterRefusedError:
    return AdapterRefusedError(404, "adapter_not_found", f"The model `{base}:{name}` does not exist.")
