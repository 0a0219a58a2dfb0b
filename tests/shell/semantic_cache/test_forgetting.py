"""What the semantic tier must not know any more, whatever else happens meanwhile; and documents that hang."""

import asyncio
import contextlib
import sqlite3
import time

import numpy as np
import pytest

from cluster.config.semantic_cache import EncoderConfig
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import PurgeScope, StoredAnswer
from deployments.messages import CACHE_ENTRY
from deployments.semantic_cache.documents import Document
from deployments.semantic_cache.redis_documents import RedisDocuments
from deployments.semantic_cache.sqlite_documents import SqliteDocuments
from tests.shell.semantic_cache.asking import ASKED, PARAPHRASE, answer, tier

pytestmark = pytest.mark.usefixtures("models_are_read_once")
THIRD = "Which way can I reset my account's password?"


@pytest.mark.parametrize("store", ["sqlite", "redis"])
@pytest.mark.parametrize("named", [ASKED, PARAPHRASE])
async def test_a_wrong_answer_goes_with_all_who_share_it(start, store, named, request, tmp_path):
    documents = SqliteDocuments(tmp_path / "shared.sqlite")
    if store == "redis":
        documents = RedisDocuments(request.getfixturevalue("redis_url"))
    cache = await start(tier(explore=1.0), documents)
    await cache.answered(ASKED, answer("Click on forgot."))
    await cache.answered(PARAPHRASE, answer("Click on forgot."))
    listed = (await cache.client.post("/inspect", json={})).json()["entries"]
    entry_id = next(entry["entry_id"] for entry in listed if entry["text"] == named)
    assert (await cache.client.post("/purge", json={"entry_id": entry_id})).json() == {"purged": 2}
    assert (await cache.client.post("/inspect", json={})).json()["entries"] == []


async def test_a_purge_by_id_reaches_those_who_share_the_answer_on_disk_only(start, tmp_path):
    cache = await start(tier(explore=1.0))
    await cache.answered(ASKED, answer("Click on forgot."))
    await cache.answered(PARAPHRASE, answer("Click on forgot."))
    listed = (await cache.client.post("/inspect", json={})).json()["entries"]
    # Nobody has asked this one yet: it has loaded nothing.
    again = await start(tier(), SqliteDocuments(tmp_path / "near.sqlite"))
    scope = {"entry_id": listed[0]["entry_id"]}
    assert (await again.client.post("/purge", json=scope)).json() == {"purged": 2}
    assert (await again.ask(THIRD)).status_code == 204


class _Held(SqliteDocuments):
    """Reads partitions only when it is told to."""

    def __init__(self, file):
        super().__init__(file)
        self.asked = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def entries(self, partition, known=frozenset()):
        found = super().entries(partition, known)
        self.loop.call_soon_threadsafe(self.asked.set)
        time.sleep(0.2)
        return found


async def test_what_is_purged_while_it_is_read_from_disk_does_not_come_back(start, tmp_path):
    cache = await start(tier())
    await cache.answered(ASKED, answer("Click on forgot."))
    held = _Held(tmp_path / "near.sqlite")
    again = await start(tier(), held)
    asking = asyncio.create_task(again.ask(PARAPHRASE))
    await held.asked.wait()
    await again.client.post("/purge", json={"tenant": "a"})
    assert (await asking).status_code == 204
    assert (await again.client.post("/inspect", json={})).json()["entries"] == []


def stored(entry_id, document_id):
    return StoredAnswer(
        entry_id=entry_id,
        partition=Partition("a", "m", "s"),
        category="c",
        language="en",
        text="What is one person's business?",
        document_id=document_id,
        document_bytes=1,
        saved_s=1.0,
        saved_tokens=1,
        stored_at_s=time.time(),
    )


def test_a_promotion_brings_nothing_back_that_the_server_forgot(redis_url):
    documents = RedisDocuments(redis_url)
    documents.open()
    documents.promote(stored("gone", "other"))
    assert documents._client.keys("*gone*") == []
    documents.close()


async def test_the_header_of_a_hit_names_what_a_purge_takes(start):
    cache = await start(tier())
    await cache.answered(ASKED, answer("Click on forgot."))
    entry_id = (await cache.ask(PARAPHRASE)).headers[CACHE_ENTRY]
    assert (await cache.client.post("/purge", json={"entry_id": entry_id})).json() == {"purged": 1}
    assert (await cache.ask(THIRD)).status_code == 204


class _Hanging(SqliteDocuments):
    """A server that answers nothing for a while once it hangs."""

    hangs = False
    begun = 0

    def entries(self, partition, known=frozenset()):
        if self.hangs:
            self.begun += 1
            time.sleep(3)
        return super().entries(partition, known)


async def test_documents_that_hang_hold_up_look_ups_once(start, tmp_path):
    documents = _Hanging(tmp_path / "hanging.sqlite")
    cache = await start(tier(), documents)
    await cache.answered(ASKED, answer("Click on forgot."))
    documents.hangs = True
    began_s = time.monotonic()
    for number in range(8):
        assert (await cache.ask(PARAPHRASE, scope=f"{number:064x}")).status_code == 204
    assert (await cache.ask(PARAPHRASE)).status_code == 204, "its answer cannot be read"
    assert time.monotonic() - began_s < 2.5
    assert cache.service.near.stats()["away"] == 9
    assert documents.begun == 1
    documents.hangs = False
    await cache.service.near.settled()
    assert (await cache.ask(PARAPHRASE)).status_code == 200


async def test_what_is_too_old_goes_from_memory_and_disk_though_nobody_asks(start, tmp_path, monkeypatch):
    monkeypatch.setattr("deployments.semantic_cache.near.SWEEP_AFTER_S", 0.05)
    cache = await start(tier(ttl_s=1000.0))
    await cache.answered(ASKED, answer("Click on forgot."))
    cache.clock.now_s += 1600
    deadline = time.monotonic() + 5
    while len(cache.service.near.tier.store) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    await cache.service.near.settled()
    with contextlib.closing(sqlite3.connect(tmp_path / "near.sqlite")) as database:
        counts = [
            database.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("entries", "documents")
        ]
    assert counts == [0, 0]


def test_a_purge_takes_what_has_lost_its_answer_as_well(redis_url):
    documents = RedisDocuments(redis_url)
    documents.open()
    vector = np.ones(4, dtype=np.float32)
    document = Document(body=b"{}", content_type="application/json")
    documents.write(stored("alias", "d"), vector, document, expires_at_s=time.time() + 100)
    documents._client.delete("tidemill:near:document:d")
    assert documents.entries(Partition("a", "m", "s")) == []
    assert documents.forget_scope(PurgeScope(tenant="a")) == 1
    assert documents._client.keys("*alias*") == []
    documents.close()


@pytest.mark.parametrize("path", ["/purge", "/inspect"])
async def test_a_text_that_cannot_be_read_now_is_to_be_asked_about_again(start, path):
    busy = tier().model_copy(update={"encoder": EncoderConfig(inputs_max=1, batch_max=1)})
    cache = await start(busy)
    await cache.answered(ASKED, answer("Click on forgot."))
    embeddings = {"model": busy.encoder.model, "input": "All that lies in the way. " * 60}
    crowd = [cache.client.post("/v1/embeddings", json=embeddings) for _ in range(4)]
    *read, refused = await asyncio.gather(*crowd, cache.client.post(path, json={"text": ASKED}))
    assert [each.status_code for each in read] == [200] * 4
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.json()["error"]["code"] == "overloaded"
    found = (await cache.client.post(path, json={"text": ASKED})).json()
    assert found.get("purged", len(found.get("entries", []))) == 1


@pytest.mark.parametrize("store", ["sqlite", "redis"])
async def test_a_purge_by_text_reaches_what_nobody_has_asked_since_the_restart(
    start, store, request, tmp_path
):
    def documents():
        if store == "redis":
            return RedisDocuments(request.getfixturevalue("redis_url") if not made else made[0]._url)
        return SqliteDocuments(tmp_path / "shared.sqlite")

    made = []
    made.append(documents())
    before = await start(tier(explore=1.0), made[0])
    await before.answered(ASKED, answer("Click on forgot."))
    await before.answered(PARAPHRASE, answer("Click on forgot."))
    await before.answered(ASKED, answer("No."), tenant="b")
    # It has loaded no partition yet.
    after = await start(tier(), documents())
    scope = {"text": ASKED, "similarity": 0.99, "tenant": "a"}
    assert (await after.client.post("/purge", json=scope)).json() == {"purged": 2}
    assert (await after.ask(THIRD)).status_code == 204
    assert (await after.ask(THIRD, tenant="b")).content == answer("No.")


async def test_a_similarity_without_a_text_purges_nothing(start):
    cache = await start(tier())
    await cache.answered(ASKED, answer("Click on forgot."))
    refused = await cache.client.post("/purge", json={"similarity": 0.9})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "similarity")
    assert (await cache.ask(ASKED)).status_code == 200


async def test_an_answer_without_a_lease_may_be_from_before_a_purge(start):
    cache = await start(tier())
    assert (await cache.ask(ASKED)).status_code == 204
    assert (await cache.ask(ASKED, tenant="b")).status_code == 204
    assert (await cache.client.post("/purge", json={"tenant": "a"})).status_code == 200
    await cache.tell(ASKED, answer("From before."))
    await cache.tell(ASKED, answer("Of another."), tenant="b")
    assert (await cache.ask(ASKED)).status_code == 204
    assert (await cache.ask(ASKED, tenant="b")).content == answer("Of another.")
