"""Moves adapters: one load at a time, within the stall budget, where most waiting ends first.

Everything that takes long happens beside it: files are fetched and checked in threads, and copies in the
engine's memory are made while the engine computes. What is left for the engine's own loop is short, and there
is always room for it: who leaves, leaves before anybody comes, so that the engine's own LRU never chooses.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass

from cluster.config.adapters import PoolAdaptersConfig
from cluster.entities.adapters import AdapterTier
from cluster.metrics import adapters as metrics
from cluster.policy.paging.core import PagerCore
from cluster.policy.paging.interface import ResidencyPlan
from deployments.adapter_pager.backend import AdapterBackend, AdapterLoadError, SlotReport
from deployments.adapter_pager.entries import Entry, Shelf
from deployments.adapter_pager.metrics import PagerMetrics
from deployments.adapter_pager.staging import Staging
from deployments.adapter_pager.stall_budget import StallBudget

logger = logging.getLogger("tidemill.adapters")

_LOOK_AGAIN_S = 1.0
"""Nothing depends on it but what a lost wake-up would cost."""
_LOAD_GUESS_S = 0.02
"""Of the first load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One load and what must leave before."""

    entry: Entry
    leaving: tuple[str, ...]
    planned: bool
    """Nobody waits for it."""


class PageLoop:
    """The only place that calls the engine's swaps and unloads."""

    def __init__(
        self,
        shelf: Shelf,
        core: PagerCore,
        *,
        config: PoolAdaptersConfig,
        backend: AdapterBackend,
        staging: Staging,
        exported: PagerMetrics,
        seats: int,
    ) -> None:
        self._seats = seats
        self._shelf = shelf
        self._core = core
        self._config = config
        self._backend = backend
        self._staging = staging
        self._exported = exported
        self._wake = asyncio.Event()
        self._budget = StallBudget(config.stall_s_per_s, debt_s=config.stall_debt_s, now_s=time.monotonic())
        self._load_s = _LOAD_GUESS_S
        self._report = SlotReport(held=frozenset(), loads=0, load_s=0.0, stall_s=0.0, stream_stall_s=0.0)
        self._due_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self.plan: ResidencyPlan | None = None
        """What should be resident, as far as it is not yet."""
        self.page_ins = 0
        self.stalled_s = 0.0

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; what is parked stays parked."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def has_seat(self) -> bool:
        """Whether the engine runs one more request at once: in its own queue it would only hold a slot."""
        return self._shelf.running < self._seats

    def wake(self) -> None:
        """Something has changed."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._turn()
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception("the adapter pager goes on after an unexpected error")
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def _turn(self) -> None:
        self._wake.clear()
        await self._see_out()
        self._due_s = time.monotonic() + _LOOK_AGAIN_S
        job = self._next_job(time.monotonic())
        if job is not None:
            await self._do(job)
            return
        if not self._shelf.parked:
            self._staging.copy_ahead(self.wake)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.001, self._due_s - time.monotonic())):
                await self._wake.wait()

    async def _see_out(self) -> None:
        """Unload what the catalogue has no more and nobody runs on."""
        for entry in [e for e in self._shelf.leaving if not e.running]:
            if entry.in_slot:
                self._close(entry)
                await self._backend.unload(entry.number)
                self._left(entry, "removed")
            if entry.in_host:
                await self._staging.forget(entry)
            self._staging.settle(entry)
            self._shelf.leaving.remove(entry)

    def _next_job(self, now_s: float) -> Job | None:
        """The next load, if one can and may happen now."""
        waiting = self._shelf.waiting(now_s)
        for entry in waiting:
            if entry.in_slot and not entry.draining:
                self._admit(entry)
        busy = [entry.key for entry in self._shelf.in_slots() if entry.running]
        blocked: list[Entry] = []
        job = None
        for entry in waiting:
            if entry.in_slot or not entry.waiters or not self._is_staged(entry):
                continue
            leaving = self._room_for(entry, busy)
            if leaving is None:
                blocked.append(entry)
            elif job is None:
                job = Job(entry=entry, leaving=leaving, planned=False)
        if job is None:
            self._drain_for(blocked, now_s)
            return self._planned_job(busy, now_s)
        return job if self._may_load(now_s, urgent=True) else None

    def _is_staged(self, entry: Entry) -> bool:
        """Whether it can be loaded; begins staging if not."""
        if not self._staging.is_ready(entry):
            self._staging.begin(entry, self.wake)
            return False
        return True

    def _room_for(self, entry: Entry, busy: list[str]) -> tuple[str, ...] | None:
        """Who must leave for it; None: it cannot be loaded now."""
        # vLLM tells adapters of running requests apart by name: two versions never run side by side.
        if any(e.in_slot and e.card.name == entry.card.name for e in self._shelf.leaving):
            return None
        leaving = self._core.room_for(entry.key, busy)
        if leaving is None or len(self._shelf.in_slots()) - len(leaving) < self._config.slots:
            return leaving
        return None  # the engine still holds more than the pager's state says; the next turn knows better

    def _drain_for(self, blocked: list[Entry], now_s: float) -> None:
        """Let the adapter whose requests end first run dry, for one that has waited for too long."""
        draining = [entry for entry in self._shelf.in_slots() if entry.draining]
        waits_s = [now_s - entry.waiters[0].since_s for entry in blocked]
        if not waits_s or max(waits_s) < self._config.drain_s:
            for entry in draining:
                entry.draining = False
                self._admit(entry)
            if waits_s:
                self._due_s = min(self._due_s, now_s + self._config.drain_s - max(waits_s))
            return
        if not draining:
            candidates = [e for e in self._shelf.in_slots() if e.running and not e.card.pinned]
            if candidates:
                min(candidates, key=lambda entry: entry.tokens_left).draining = True

    def _planned_job(self, busy: list[str], now_s: float) -> Job | None:
        plan = self.plan
        if plan is None or self._shelf.parked:
            return None
        wanted = {*plan.keep, *plan.load}
        for key in plan.load:
            entry = next((e for e in self._shelf.by_name.values() if e.key == key), None)
            if entry is None or entry.in_slot or entry.retry_at_s > now_s:
                continue
            leaving = self._room_for(entry, busy)
            if leaving is None or wanted & set(leaving):
                continue
            if not self._is_staged(entry):
                return None  # its end wakes this loop
            return Job(entry=entry, leaving=leaving, planned=True) if self._may_load(now_s) else None
        if all(self._core.holds(key) for key in plan.load if key in self._core.keys):
            self.plan = None
        return None

    def _may_load(self, now_s: float, *, urgent: bool = False) -> bool:
        """Whether the stall budget allows a load now. While nothing runs, loads stall nobody."""
        if not any(entry.running for entry in self._shelf):
            return True
        wait_s = self._budget.wait_s(self._load_s, now_s, urgent=urgent)
        self._due_s = min(self._due_s, now_s + wait_s)
        return wait_s <= 0

    async def _do(self, job: Job) -> None:
        entry = job.entry
        leaving = [self._shelf.of_key(key) for key in job.leaving]
        if any(other.running for other in leaving):
            return  # somebody was let in since: look again
        began_s, tier = time.monotonic(), entry.tier
        if entry.staging_since_s:  # since the last load: staging is part of the page-in
            began_s, tier = entry.staging_since_s, entry.staging_tier
        for other in leaving:  # all before the first await: nobody may be let in any more
            self._close(other)
        numbers = [other.number for other in leaving]
        swapping = asyncio.create_task(self._backend.swap(numbers, entry.for_engine()))
        if entry.in_host:
            await asyncio.sleep(0)  # it is begun: requests line up behind it, and need not wait for its end
            self._arrive(entry, planned=job.planned)
        for other in leaving:
            self._left(other, "plan" if job.planned else "demand")
        try:
            report = await swapping
        except AdapterLoadError as error:
            if entry.in_slot:
                self._close(entry)
            self._staging.failed(entry, "engine", str(error))
            await self.reconcile(await self._backend.report())  # what is left of it would take a slot
            return
        if not entry.in_slot:
            self._arrive(entry, planned=job.planned)
        seconds, before = time.monotonic() - began_s, self._report
        await self.reconcile(report)
        self._note(entry, tier, seconds, before)

    def _arrive(self, entry: Entry, *, planned: bool) -> None:
        """Requests for it may be sent to the engine from now on."""
        entry.tier, entry.failures, entry.staging_since_s = AdapterTier.DEVICE, 0, 0.0
        entry.prefetched, entry.used_at_s = planned, time.monotonic()
        self._core.loaded(entry.key)
        self._admit(entry)

    def _note(self, entry: Entry, tier: AdapterTier, seconds: float, before: SlotReport) -> None:
        load_s = max(0.0, self._report.load_s - before.load_s)
        stall_s = max(0.0, self._report.stall_s - before.stall_s)
        self._core.paged_in(entry.key, tier.value, seconds, stall_s=load_s)
        self._load_s += 0.3 * (load_s - self._load_s)
        self.page_ins += 1
        self.stalled_s += stall_s
        self._budget.spend(stall_s, time.monotonic())
        self._exported.count(metrics.ADAPTER_STALL, by=stall_s)
        self._exported.observe(metrics.ADAPTER_PAGE_IN, seconds, tier.value)

    def _admit(self, entry: Entry) -> None:
        """Let in who waits for it, as far as the engine has seats."""
        if entry.waiters and entry.prefetched:
            entry.prefetched = False
            self._exported.count(metrics.ADAPTER_PREFETCHES, "useful")
        while entry.waiters and self.has_seat:
            waiter = entry.waiters.popleft()
            if not waiter.admitted.done():
                waiter.admitted.set_result(entry.run(waiter.request))

    def _close(self, entry: Entry) -> None:
        """Let nobody in any more who would run on it."""
        entry.tier = AdapterTier.HOST if entry.in_host else AdapterTier.DISK
        entry.draining = False
        self._core.evicted(entry.key)
        self._core.set_tier(entry.key, entry.tier.value)

    def _left(self, entry: Entry, reason: str) -> None:
        self._staging.settle(entry)
        self._exported.count(metrics.ADAPTER_EVICTIONS, reason)
        if entry.prefetched:
            entry.prefetched = False
            self._exported.count(metrics.ADAPTER_PREFETCHES, "wasted")
            self._exported.count(metrics.ADAPTER_WASTED, by=entry.size)

    async def reconcile(self, report: SlotReport) -> None:
        """Bring the engine to what this process believes, after a restart and after every swap."""
        self._report = report
        believed = {entry.number: entry for entry in self._shelf.in_slots()}
        for number in report.held - set(believed):
            logger.warning("the engine holds adapter %d, which should not be in a slot; removing it", number)
            await self._backend.unload(number)
        for number in set(believed) - report.held:
            entry = believed[number]
            logger.warning("the engine lost adapter %s; putting it back", entry.card.name)
            with contextlib.suppress(AdapterLoadError):
                self._report = await self._backend.swap((), entry.for_engine())
