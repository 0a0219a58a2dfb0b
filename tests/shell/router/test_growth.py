"""A router keeps nothing of a request that is over but what its tables are for."""

import asyncio
import gc

import pytest

from deployments.router.generation.relay import Relay
from deployments.router.wire.responder import Responder


def _alive(kind: type) -> int:
    gc.collect()
    return sum(isinstance(found, kind) for found in gc.get_objects())


@pytest.fixture
def only_what_is_new():
    """Keeps what was there before out of the collector's sight: to look through it takes most of a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_what_is_new")
async def test_nothing_is_kept_of_requests_that_are_over(start_cluster):
    # Nobody tells this router what its replicas have used: its energy ledger waits for that for ever.
    cluster = await start_cluster({"decision_log": {"memory_records_max": 4}})
    for batch in range(4):
        asking = (cluster.chat(f"{batch} {n}", stream=n % 2 == 0, max_tokens=4) for n in range(16))
        assert {answer.status for answer in await asyncio.gather(*asking)} == {200}
    await cluster.assert_idle()
    await cluster.until(lambda: _alive(Relay) == 0)
    assert _alive(Responder) <= 16  # of the last request on each connection that is kept open
    assert not cluster.core.silence._attempts


async def test_what_replicas_used_is_forgotten_with_them_where_nobody_plans(start_cluster):
    cluster = await start_cluster()
    await asyncio.gather(*(cluster.chat(f"{n}") for n in range(8)))
    await cluster.assert_idle()
    known = set(cluster.core.energy._open)
    assert known & {"decode-0", "decode-1"}
    cluster.remove("decode-0")
    assert set(cluster.core.energy._open) == known - {"decode-0"}


async def test_the_status_page_remembers_its_window_even_if_nobody_looks(start_cluster, monkeypatch):
    monkeypatch.setattr("deployments.router.records.status._WINDOW_S", 0.2)
    cluster = await start_cluster()
    await asyncio.gather(*(cluster.chat(f"{n}") for n in range(8)))
    await asyncio.sleep(0.3)
    await cluster.chat("one more")
    await cluster.until(lambda: len(cluster.core.status._recent) == 1)
