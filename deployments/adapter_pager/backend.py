"""What the pager asks of an engine. vLLM and the simulated engine answer it in `deployments.engine`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAdapter:
    """An adapter as an engine is told of it."""

    name: str
    """What requests call it: `BASE:NAME`."""
    number: int
    """Chosen by the pager and never used for other weights."""
    path: str
    """Folder of its files, named after their hash: engines key prefix caches by it."""
    bytes: int
    """Of its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """What an engine says of its slots."""

    held: frozenset[int]
    """Numbers of the adapters in it."""
    loads: int
    """Into slots, since it was first asked."""
    load_s: float
    """For how long they kept it from computing, with or without requests."""
    stall_s: float
    """For how long they kept requests from going on that had no use for the adapter."""
    stream_stall_s: float
    """The same, times those requests."""


class AdapterLoadError(Exception):
    """The engine does not take this adapter; it goes on with the others."""


class AdapterBackend(Protocol):
    """The slots of one engine. Swaps and unloads are never called two at a time."""

    keeps_host_copies: bool
    """Whether `prepare` does anything."""

    async def prepare(self, adapter: EngineAdapter) -> None:
        """Read an adapter into the engine's memory while it computes, so that `swap` only copies.

        Raises:
            AdapterLoadError: it cannot be read, or does not fit the model.
        """

    async def forget(self, number: int) -> None:
        """Give the memory of `prepare` back; an adapter in a slot stays there."""

    async def swap(self, leaving: Sequence[int], adapter: EngineAdapter) -> SlotReport:
        """Take adapters out that no request uses, and put one into the slot that is free then; as `report`.

        Requests may name it from the first moment: what is sent to the engine after this was begun waits
        behind it. An adapter that is in a slot already is only touched.

        Raises:
            AdapterLoadError: the engine refuses it. It may not refuse what `prepare` took.
        """

    async def unload(self, number: int) -> None:
        """Take an adapter that no request uses out of its slot; a prepared copy stays in memory."""

    async def report(self) -> SlotReport:
        """What it holds, and what that has cost."""
