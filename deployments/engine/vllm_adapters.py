"""The slots of an in-process vLLM engine, as the adapter pager uses them.

vLLM's own registry maps the names in requests to adapters, so every surface of its server works with them.
Adapters are never pinned in vLLM: it has no unpin, an engine whose slots are all pinned stops for good at the
next other adapter, and nothing is evicted that the pager did not remove.
"""

import asyncio
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

    async def load(self, adapter: EngineAdapter) -> None:
        """Put it into a free slot and into the registry."""
        from vllm.lora.request import LoRARequest

        request = LoRARequest(adapter.name, adapter.number, adapter.path)
        try:
            await self._client.add_lora(request)
        except Exception as error:
            if self._client.errored:
                raise
            raise AdapterLoadError(f"vLLM does not take it: {error}") from error
        self._models.lora_requests[adapter.name] = request

    async def unload(self, number: int) -> None:
        """Take it out of the registry and its slot."""
        known = self._models.lora_requests
        for name in [name for name, request in known.items() if request.lora_int_id == number]:
            del known[name]
        await self._client.remove_lora(number)

    async def report(self) -> SlotReport:
        """What the workers hold; with several they hold the same."""
        found = (await self._client.collective_rpc("adapter_report"))[0]
        return SlotReport(**{**found, "held": frozenset(found["held"])})
