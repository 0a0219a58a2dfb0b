"""Documents that are broken, away or written by somebody else: the cache goes on, and finds what is there."""

import asyncio
import contextlib
import sqlite3
import time

import pytest

from deployments.semantic_cache.redis_documents import RedisDocuments
from deployments.semantic_cache.sqlite_documents import SqliteDocuments
from tests.shell.redis_server import free_port, redis_on
from tests.shell.semantic_cache.asking import ASKED, PARAPHRASE, answer, tier

pytestmark = pytest.mark.usefixtures("models_are_read_once")
THIRD = "Which way can I reset my account's password?"
OTHER = "Where is the train station of Lisbon?"
OTHER_WORDS = "Where can I find the train station of Lisbon?"


async def test_who_owns_a_partition_again_finds_what_was_stored_meanwhile(start):
    first = await start(tier())
    await first.answered(ASKED, answer("Click on forgot."))
    second = await start(tier())
    await second.answered(OTHER, answer("By the river."))
    first.clock.now_s += 120
    assert (await first.ask(OTHER_WORDS)).content == answer("By the river.")
    assert (await first.ask(PARAPHRASE)).content == answer("Click on forgot.")


@pytest.mark.parametrize("store", ["sqlite", "redis"])
@pytest.mark.parametrize(("replicas", "idle_s", "status"), [(2, 120.0, 200), (2, 0.0, 204), (1, 120.0, 204)])
async def test_who_owned_a_partition_takes_nothing_from_who_owns_it_now(
    start, request, tmp_path, store, replicas, idle_s, status
):
    url = request.getfixturevalue("redis_url") if store == "redis" else ""

    def documents():
        return RedisDocuments(url) if url else SqliteDocuments(tmp_path / "shared.sqlite")

    config = tier(room=1, share_max=1.0).model_copy(update={"replicas": replicas})
    before = await start(config, documents())
    await before.answered(ASKED, answer("Click on forgot."))
    now = await start(tier(), documents())
    assert (await now.ask(PARAPHRASE)).status_code == 200
    before.clock.now_s += idle_s
    # It has no room for both; what it has not been asked about for long may be another one's.
    await before.answered(OTHER, answer("By the river."), scope="6d" * 32)
    assert len(before.service.near.tier.store) == 1
    assert (await now.ask(PARAPHRASE)).status_code == status


async def test_a_file_that_is_no_database_is_put_aside(start, tmp_path):
    file = tmp_path / "near.sqlite"
    file.write_bytes(b"not a database" * 1000)
    cache = await start(tier())
    await cache.answered(ASKED, answer("Click on forgot."))
    assert (await cache.ask(PARAPHRASE)).status_code == 200
    assert (tmp_path / "near.sqlite.broken").read_bytes().startswith(b"not a database")


async def test_a_server_that_is_away_at_the_start_is_used_when_it_comes(start, tmp_path, monkeypatch):
    monkeypatch.setattr("deployments.semantic_cache.near.REOPEN_AFTER_S", 0.05)
    port = free_port()
    cache = await start(tier(), RedisDocuments(f"redis://127.0.0.1:{port}/0"))
    await cache.answered(ASKED, answer("Click on forgot."))
    assert (await cache.ask(ASKED)).status_code == 200, "equal requests do not need the server"
    assert (await cache.ask(PARAPHRASE)).status_code == 204
    assert cache.service.near.stats()["away"] >= 1
    with redis_on(port, tmp_path):
        deadline = time.monotonic() + 10
        while not cache.service.near.is_open and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await cache.answered(PARAPHRASE, answer("Click on forgot."))
        again = await start(tier(), RedisDocuments(f"redis://127.0.0.1:{port}/0"))
        assert (await again.ask(ASKED)).status_code == 200
        await again.service.near.settled()
        await cache.service.near.settled()


async def test_a_server_that_goes_away_costs_no_look_up(start, tmp_path):
    port = free_port()
    with redis_on(port, tmp_path) as url:
        cache = await start(tier(), RedisDocuments(url))
        await cache.answered(ASKED, answer("Click on forgot."))
    assert (await cache.ask(PARAPHRASE)).status_code == 204
    assert (await cache.ask(ASKED)).status_code == 200


async def test_a_purge_that_does_not_reach_the_documents_says_so(start, tmp_path):
    port = free_port()
    with redis_on(port, tmp_path) as url:
        cache = await start(tier(), RedisDocuments(url))
        await cache.answered(ASKED, answer("Click on forgot."))
        again = await start(tier(), RedisDocuments(url))
    for asked in (cache, again, await start(tier(), RedisDocuments(url))):
        failed = await asked.client.post("/purge", json={})
        assert (failed.status_code, failed.json()["error"]["code"]) == (503, "documents_away")
        assert failed.headers["retry-after"] == "5"
    assert (await cache.ask(PARAPHRASE)).status_code == 204


async def test_what_a_later_release_wrote_is_read_as_far_as_it_is_known(start, tmp_path):
    cache = await start(tier(explore=1.0))
    await cache.answered(ASKED, answer("Click on forgot."))
    await cache.answered(PARAPHRASE, answer("Click on forgot."))
    with contextlib.closing(sqlite3.connect(tmp_path / "near.sqlite")) as file, file:
        file.execute("UPDATE entries SET meta = json_set(meta, '$.mood', 'good')")
        file.execute("UPDATE judged SET meta = json_set(meta, '$.mood', 'good', '$.around.mood', 'good')")
    again = await start(tier())
    assert again.service.near.is_open
    assert len(list(again.service.near.tier.evidence.everything())) == 1
    assert (await again.ask(THIRD)).content == answer("Click on forgot.")
