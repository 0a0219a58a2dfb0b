"""LoRA slots of the simulated engine, by vLLM's rules, so that misuse shows in fleets without a model.

A load stops the whole engine; a full engine evicts the adapter that was used longest ago, whoever runs on it;
a request whose adapter was removed under it has it loaded again within a step.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from cluster.config.pools import SimulatedEngine
from deployments.adapter_pager.backend import EngineAdapter, SlotReport
from deployments.engine.simulated_batch import Batch


class SimulatedAdapters:
    """One engine's slots (an `AdapterBackend`)."""

    keeps_host_copies = True

    def __init__(self, config: SimulatedEngine, batch: Batch, *, slots: int) -> None:
        self._config = config
        self._batch = batch
        self._slots = slots
        self._named: dict[str, EngineAdapter] = {}
        self._held: OrderedDict[int, EngineAdapter] = OrderedDict()
        self._copies: set[int] = set()
        self._loads, self._load_s, self._stall_s, self._stream_stall_s = 0, 0.0, 0.0, 0.0
        self.engine_evictions = 0
        """Adapters that the engine threw out because nobody had made room; 0 beside a pager."""
        self.engine_loads = 0
        """Loads within a step, because a request came without its adapter; 0 beside a pager."""

    @property
    def names(self) -> frozenset[str]:
        """What requests may call for, the base model apart."""
        return frozenset(self._named)

    def used(self, name: str) -> None:
        """A request for this adapter has begun."""
        adapter = self._named[name]
        if adapter.number not in self._held:
            self.engine_loads += 1
            self._put(adapter)
        self._held.move_to_end(adapter.number)

    async def prepare(self, adapter: EngineAdapter) -> None:
        """Takes as long as reading, and stops nobody."""
        await asyncio.sleep(adapter.bytes / self._config.adapter_read_bytes_per_s)
        self._copies.add(adapter.number)

    async def forget(self, number: int) -> None:
        """Give up the copy."""
        self._copies.discard(number)

    async def swap(self, leaving: Sequence[int], adapter: EngineAdapter) -> SlotReport:
        """The engine stops for as long as the load takes."""
        for number in leaving:
            await self.unload(number)
        self._named[adapter.name] = adapter
        load_s = 0.0 if adapter.number in self._held else self._put(adapter)
        self._held.move_to_end(adapter.number)
        await asyncio.sleep(load_s)
        return await self.report()

    async def unload(self, number: int) -> None:
        """Take it out."""
        self._held.pop(number, None)
        self._named = {name: found for name, found in self._named.items() if found.number != number}

    async def report(self) -> SlotReport:
        """What is in the slots."""
        return SlotReport(
            held=frozenset(self._held),
            loads=self._loads,
            load_s=self._load_s,
            stall_s=self._stall_s,
            stream_stall_s=self._stream_stall_s,
        )

    def _put(self, adapter: EngineAdapter) -> float:
        if len(self._held) >= self._slots:
            self._held.popitem(last=False)
            self.engine_evictions += 1
        self._held[adapter.number] = adapter
        load_s = adapter.bytes / self._config.adapter_copy_bytes_per_s
        if adapter.number not in self._copies:
            load_s += adapter.bytes / self._config.adapter_read_bytes_per_s
        running = self._batch.running
        self._loads += 1
        self._load_s += load_s
        self._stall_s += load_s if running else 0.0
        self._stream_stall_s += load_s * running
        self._batch.stall(load_s)
        return load_s
