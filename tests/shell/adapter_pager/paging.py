"""An engine by vLLM's rules that remembers every misuse, and a pager beside it."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path

from cluster.config.adapters import AdaptersConfig, PoolAdaptersConfig
from cluster.config.paging import PagingConfig
from cluster.entities.adapters import AdapterCard, AdapterCatalogue
from cluster.policy.paging.core import PagerCore
from cluster.policy.paging.interface import Budget
from deployments.adapter_pager.backend import AdapterLoadError, EngineAdapter, SlotReport
from deployments.adapter_pager.entries import AdapterRequest, Visit
from deployments.adapter_pager.folders import AdapterFolders
from deployments.adapter_pager.memory import PagerMemory
from deployments.adapter_pager.pager import AdapterPager
from deployments.adapter_pager.sources import AdapterSources
from tests.adapter_files import write_adapter

DIMENSION = 4


class FakeEngine:
    """Slots by vLLM's rules (an `AdapterBackend`).

    A load into full slots throws out the adapter that was used longest ago. A request whose adapter is not
    there has it loaded in a step; if every slot is in use then, the engine is wedged for good.
    """

    def __init__(self, slots: int, *, load_s: float = 0.001, copies: bool = True) -> None:
        self.keeps_host_copies = copies
        self.slots = slots
        self.load_s = load_s
        self.held: OrderedDict[int, EngineAdapter] = OrderedDict()
        self.coming: set[int] = set()
        """On the way into a slot: requests line up behind it."""
        self.copies: set[int] = set()
        self.users: dict[int, int] = {}
        self.misuse: list[str] = []
        self.loads: list[str] = []
        self.broken: set[str] = set()
        self.wedged = False
        self._busy = False

    async def prepare(self, adapter: EngineAdapter) -> None:
        await asyncio.sleep(self.load_s)
        if adapter.name in self.broken:
            raise AdapterLoadError("the shapes do not match")
        self.copies.add(adapter.number)

    async def forget(self, number: int) -> None:
        self.copies.discard(number)

    @contextlib.asynccontextmanager
    async def _alone(self, what: str) -> AsyncIterator[None]:
        if self._busy:
            self.misuse.append(f"{what} beside another load")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def swap(self, leaving, adapter: EngineAdapter) -> SlotReport:
        async with self._alone(f"load of {adapter.name}"):
            for number in leaving:
                self._remove(number)
            self.coming.add(adapter.number)
            try:
                await asyncio.sleep(self.load_s)
            finally:
                self.coming.discard(adapter.number)
            if adapter.number not in self.held and len(self.held) >= self.slots:
                number, _ = self.held.popitem(last=False)
                self.misuse.append(f"the engine threw out {number}")
            self.held[adapter.number] = adapter
            self.held.move_to_end(adapter.number)
            if adapter.name in self.broken:  # as in vLLM, what was begun is left there
                raise AdapterLoadError("the shapes do not match")
            self.loads.append(adapter.name)
            return await self.report()

    async def unload(self, number: int) -> None:
        async with self._alone(f"unload of {number}"):
            self._remove(number)

    def _remove(self, number: int) -> None:
        if self.users.get(number):
            self.misuse.append(f"{number} was removed under a request")
        self.held.pop(number, None)

    async def report(self) -> SlotReport:
        return SlotReport(
            held=frozenset(self.held), loads=len(self.loads), load_s=0.0, stall_s=0.0, stream_stall_s=0.0
        )

    @contextlib.contextmanager
    def running(self, number: int):
        """A request that the engine has."""
        if number not in self.held and number not in self.coming:
            self.misuse.append(f"a request came without its adapter {number}")
            self.wedged |= sum(bool(self.users.get(held)) for held in self.held) >= self.slots
        self.users[number] = self.users.get(number, 0) + 1
        try:
            yield
        finally:
            self.users[number] -= 1


class Bench:
    """A pager, its engine, and adapters `a0`, `a1`, …"""

    def __init__(self, folder: Path, *, adapters: int = 5, slots: int = 2, engine=None, **limits) -> None:
        self.folder = folder
        self.engine = engine or FakeEngine(slots)
        self.limits = PoolAdaptersConfig(**{"slots": slots, "drain_s": 0.1, **limits})
        self.sources = {f"a{k}": write_adapter(folder / f"a{k}", k) for k in range(adapters)}
        self.paging = PagingConfig(dimension=DIMENSION, policy="gdsf")
        self.version = 0
        self.memory = PagerMemory(folder / "state", "pool", encoder="e", dimension=DIMENSION)
        self.pager = self._pager()

    def _pager(self) -> AdapterPager:
        budget = Budget(slots=self.limits.slots, reserve_slots=self.limits.reserve_slots)
        core = PagerCore(self.paging, budget, source=self.memory.source)
        self.memory.restore(core)
        sources = AdapterSources(AdaptersConfig(), make=Path)
        return AdapterPager(
            base="base",
            config=self.limits,
            core=core,
            dimension=DIMENSION,
            folders=AdapterFolders(
                self.folder / "disk", fetch=sources.fetch, bytes_max=self.limits.disk_bytes
            ),
            backend=self.engine,
            memory=self.memory,
            seats=64,
        )

    def catalogue(self, *names: str, **changes) -> AdapterCatalogue:
        """The next version, with these adapters (all, if none is named)."""
        self.version += 1
        cards = [
            AdapterCard(name=name, base_model="base", source=str(path), **changes.get(name, {}))
            for name, path in self.sources.items()
            if not names or name in names
        ]
        return AdapterCatalogue(version=self.version, adapters=tuple(cards))

    async def request(self, adapter: str, *, hold_s: float = 0.01, **fields) -> Visit:
        """A request from beginning to end."""
        visit = await self.pager.enter(AdapterRequest(adapter=adapter, **fields))
        try:
            if visit.running is not None:
                with self.engine.running(visit.running.entry.number):
                    await asyncio.sleep(hold_s)
        finally:
            self.pager.leave(visit.running)
        return visit

    async def until_running(self, *adapters: str) -> None:
        """Return when a request runs on each of these."""
        async with asyncio.timeout(10):
            while not all(self.pager.shelf.by_name[name].running for name in adapters):
                await asyncio.sleep(0.002)

    async def until_parked(self, requests: int) -> None:
        """Return when so many wait."""
        async with asyncio.timeout(10):
            while self.pager.shelf.parked < requests:
                await asyncio.sleep(0.002)

    def resident(self) -> set[str]:
        return {entry.card.name for entry in self.pager.shelf.in_slots()}

    def restarted(self) -> AdapterPager:
        """Another process, with what the first one kept."""
        self.memory.close()
        self.memory = PagerMemory(self.folder / "state", "pool", encoder="e", dimension=DIMENSION)
        self.pager = self._pager()
        return self.pager


@contextlib.asynccontextmanager
async def bench(folder: Path, **options) -> AsyncIterator[Bench]:
    """A pager that runs with its whole catalogue."""
    found = Bench(folder, **options)
    await found.pager.start()
    found.pager.set_catalogue(found.catalogue())
    try:
        yield found
    finally:
        await found.pager.stop()
        found.memory.close()
