"""The slots of an in-process vLLM engine, as the adapter pager uses them.

vLLM's own registry maps the names in requests to adapters, so every surface of its server works with them.
Adapters are never pinned in vLLM: it has no unpin, an engine whose slots are all pinned stops for good at the
next other adapter, and nothing is evicted that the pager did not remove.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from deployments.adapter_pager.backend import AdapterLoadError, EngineAdapter, SlotReport

_LOOK_AGAIN_S = 0.005


class VllmAdapters:
    """One engine's slots (an `AdapterBackend`)."""

    keeps_host_copies = True

    def __init__(self, client: Any, models: Any) -> None:
        """Take a running engine.

        Args:
            client: its `AsyncLLM`.
            models: the server's `OpenAIServingModels`.
        """
        self._client = client
        self._models = models

    async def quicken(self) -> None:
        """Have loads and steps leave alone what no adapter changes (`adapter_slots`)."""
        await self._client.collective_rpc("adapter_quicken")

    async def prepare(self, adapter: EngineAdapter) -> None:
        """Have a thread of the worker read it; returns when it has."""
        number = adapter.number
        await self._client.collective_rpc("adapter_prepare", args=(adapter.name, number, adapter.path))
        while True:
            answers = await self._client.collective_rpc("adapter_prepared", args=(number,))
            wrong = next((answer for answer in answers if answer), None)
            if wrong:
                await self.forget(number)
                raise AdapterLoadError(f"vLLM cannot use its files: {wrong}")
            if all(answer is not None for answer in answers):
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def forget(self, number: int) -> None:
        """Give up the worker's copy."""
        await self._client.collective_rpc("adapter_forget", args=(number,))

    async def swap(self, leaving: Sequence[int], adapter: EngineAdapter) -> SlotReport:
        """One call for all of it: each takes a step's time to come through when the engine is busy.

        vLLM takes calls and requests in the order they were sent, which this does before it first waits.
        """
        from vllm.lora.request import LoRARequest

        known = self._models.lora_requests
        for name in [name for name, request in known.items() if request.lora_int_id in leaving]:
            del known[name]
        known[adapter.name] = LoRARequest(adapter.name, adapter.number, adapter.path)
        arguments = (list(leaving), adapter.name, adapter.number, adapter.path)
        try:
            answers = await self._client.collective_rpc("adapter_swap", args=arguments)
        except Exception as error:
            known.pop(adapter.name, None)
            if self._client.errored:
                raise
            raise AdapterLoadError(f"vLLM does not take it: {error}") from error
        return _report(answers)

    async def unload(self, number: int) -> None:
        """Take it out of the registry and its slot."""
        known = self._models.lora_requests
        for name in [name for name, request in known.items() if request.lora_int_id == number]:
            del known[name]
        await self._client.remove_lora(number)

    async def report(self) -> SlotReport:
        """What the workers hold."""
        return _report(await self._client.collective_rpc("adapter_report"))


def _report(answers: Sequence[dict[str, Any]]) -> SlotReport:
    """Of the workers, who hold the same."""
    return SlotReport(**{**answers[0], "held": frozenset(answers[0]["held"])})
