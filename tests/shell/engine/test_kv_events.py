"""What is read from an engine's KV events, sent as vLLM sends them: msgpack over ZeroMQ."""

import asyncio

import msgspec
import pytest
import zmq
import zmq.asyncio

from cluster.entities.pool import PrefixCacheReport
from deployments.engine.kv_events import KvEvents

BLOCK = 16


def stored(*hashes, **more):
    return {
        "type": "BlockStored",
        "block_hashes": list(hashes),
        "parent_block_hash": None,
        "token_ids": [1] * BLOCK * len(hashes),
        "block_size": BLOCK,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        **more,
    }


def removed(*hashes, medium="GPU"):
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": medium}


CLEARED = {"type": "AllBlocksCleared"}


class Publisher:
    """The engine's side of the socket."""

    def __init__(self, endpoint, context):
        self.sequence = 0
        self.socket = context.socket(zmq.PUB)
        self.socket.bind(endpoint)

    async def send(self, *events, payload=None):
        body = payload or msgspec.msgpack.encode([0.0, list(events), 0])
        await self.socket.send_multipart((b"", self.sequence.to_bytes(8, "big"), body))
        self.sequence += 1


@pytest.fixture
async def link():
    """A reader that is connected, and its publisher."""
    reader = KvEvents()
    with zmq.asyncio.Context() as context:
        publisher = Publisher(reader.engine_arguments["endpoint"], context)
        reader.start()
        # ZeroMQ says nothing when a subscriber has arrived: publish until the first batch is read.
        async with asyncio.timeout(5):
            while reader.report.tokens == 0:
                await publisher.send(stored(b"first"))
                await asyncio.sleep(0.02)
        yield reader, publisher
        await reader.stop()
        publisher.socket.close(linger=0)


async def until(reader, report):
    async with asyncio.timeout(5):
        while reader.report != report:
            await asyncio.sleep(0.005)


async def test_resident_blocks_are_counted_once(link):
    reader, publisher = link
    await publisher.send(stored(b"a", b"b"), stored(b"b"), stored(b"first"))
    await until(reader, PrefixCacheReport(tokens=3 * BLOCK))


async def test_what_fits_is_known_when_a_block_is_given_up(link):
    reader, publisher = link
    await publisher.send(stored(b"a", b"b"), removed(b"a", b"unknown"))
    await until(reader, PrefixCacheReport(tokens=2 * BLOCK, tokens_when_full=3 * BLOCK))


async def test_an_emptied_cache_is_told(link):
    reader, publisher = link
    await publisher.send(stored(b"a"), CLEARED, stored(b"c"))
    await until(reader, PrefixCacheReport(tokens=BLOCK, clears=1))


async def test_other_tiers_and_groups_are_left_out(link):
    reader, publisher = link
    await publisher.send(
        stored(b"x", medium="CPU"), stored(b"y", group_idx=1), removed(b"first", medium="CPU")
    )
    await publisher.send(stored(b"z", group_idx=0))
    await until(reader, PrefixCacheReport(tokens=2 * BLOCK))


@pytest.mark.parametrize("payload", [None, b"\xc1not msgpack"])
async def test_after_a_gap_or_nonsense_the_count_begins_anew(link, payload):
    reader, publisher = link
    await publisher.send(stored(b"a"), removed(b"a"))
    if payload is None:
        publisher.sequence += 3
    else:
        await publisher.send(payload=payload)
    await publisher.send(stored(b"c", b"d"))
    await until(reader, PrefixCacheReport(tokens=2 * BLOCK))
