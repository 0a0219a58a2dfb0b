"""What an engine says of its own prefix cache: vLLM's KV events, read where the engine runs.

Routers believe that a replica holds what they sent there. The events tell when that stops being true: a
cache that was cleared, and how much fits before old blocks are given up. Which blocks are given up is not
taken from them: routers hash text, engines hash tokens, and asking for tokens would cost every request a
round trip.
"""

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Iterable
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from cluster.entities.pool import PrefixCacheReport

logger = logging.getLogger("tidemill.engine")

_DEVICE = "GPU"
"""vLLM's word for the engine's own KV cache, on CPU engines as well."""
_HIGH_WATER_MARK = 10_000
"""Batches that may wait to be read; ZeroMQ drops what comes beyond them, and the count is taken up again."""


class _Stored(msgspec.Struct, tag="BlockStored"):
    block_hashes: list[Any]
    block_size: int
    medium: str | None = None
    group_idx: int | None = None


class _Removed(msgspec.Struct, tag="BlockRemoved"):
    block_hashes: list[Any]
    medium: str | None = None
    group_idx: int | None = None


class _Cleared(msgspec.Struct, tag="AllBlocksCleared"):
    pass


_Event = _Stored | _Removed | _Cleared


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_Event]


class ResidentPrefixes:
    """Which blocks are in an engine's prefix cache, as far as routers need to know."""

    def __init__(self) -> None:
        self._blocks: set[Any] = set()
        self._block_tokens = 0
        self._full_tokens: int | None = None
        self._clears = 0

    def take(self, events: Iterable[_Event]) -> None:
        """Take in what happened, in order; only of the engine's own cache, and of its first group."""
        for event in events:
            if isinstance(event, _Cleared):
                self._clears += 1
                self._blocks.clear()
            elif event.medium not in (None, _DEVICE) or event.group_idx not in (None, 0):
                continue
            elif isinstance(event, _Stored):
                self._block_tokens = event.block_size
                self._blocks.update(event.block_hashes)
            else:
                # A block goes only when its room is needed: what is there now is what fits.
                self._full_tokens = len(self._blocks) * self._block_tokens
                self._blocks.difference_update(event.block_hashes)

    def lost(self) -> None:
        """Events were missed: what was counted so far says nothing any more."""
        self._blocks.clear()
        self._full_tokens = None

    @property
    def report(self) -> PrefixCacheReport:
        """What routers are told."""
        return PrefixCacheReport(
            tokens=len(self._blocks) * self._block_tokens,
            tokens_when_full=self._full_tokens,
            clears=self._clears,
        )


class KvEvents:
    """Reads one engine's events for as long as it lives."""

    def __init__(self) -> None:
        """Make a place for the engine to publish at that nobody else can reach."""
        self._folder = tempfile.TemporaryDirectory(prefix="tidemill-kv-")
        self._endpoint = f"ipc://{self._folder.name}/events"
        self._prefixes = ResidentPrefixes()
        self._decoder = msgspec.msgpack.Decoder(_Batch)
        self._task: asyncio.Task[None] | None = None

    @property
    def engine_arguments(self) -> dict[str, str | bool]:
        """Value of vLLM's `kv_events_config`."""
        return {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": self._endpoint}

    @property
    def report(self) -> PrefixCacheReport:
        """What is known now."""
        return self._prefixes.report

    def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Read no further."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._folder.cleanup()

    async def _read(self) -> None:
        with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(self._endpoint)
            expected: int | None = None
            while True:
                _, number, payload = await socket.recv_multipart()
                sequence = int.from_bytes(number, "big")
                if expected is not None and sequence != expected:
                    logger.warning("missed %d batches of KV events", sequence - expected)
                    self._prefixes.lost()
                expected = sequence + 1
                try:
                    batch = self._decoder.decode(payload)
                except msgspec.DecodeError as error:
                    logger.warning("KV events that are not understood: %s", error)
                    self._prefixes.lost()
                    continue
                self._prefixes.take(batch.events)
