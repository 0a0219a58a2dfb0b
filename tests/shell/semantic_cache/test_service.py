"""The cache's HTTP surface: look-up, store, lease, purge, embeddings, numbers, and refusal of nonsense."""

import asyncio
import time
from types import SimpleNamespace

import httpx
import openai
import pytest

from cluster.config.semantic_cache import (
    EncoderConfig,
    ExactTierConfig,
    SemanticCacheConfig,
)
from deployments.messages import CACHE_AGE, CACHE_ASKER, CACHE_LEASE, CACHE_OUTCOME, CACHE_TIER, CacheQuery
from deployments.semantic_cache.service import (
    CACHE_KEY,
    CACHE_MODEL,
    CACHE_TENANT,
    CacheService,
)

KEY = "ab" * 32
SSE = b'data: {"choices":[]}\n\ndata: [DONE]\n\n'
CONFIG = SemanticCacheConfig(
    exact=ExactTierConfig(entry_bytes_max=4096, bytes_max=16384), encoder=EncoderConfig(inputs_max=4)
)


def query(**changes):
    return CacheQuery(**{"tenant": "a", "model": "m", "key": KEY, **changes}).to_json()


def store_headers(**changes):
    return {
        CACHE_TENANT: "a",
        CACHE_MODEL: "m",
        CACHE_KEY: KEY,
        "content-type": "text/event-stream",
        **changes,
    }


@pytest.fixture
async def cache():
    clock = SimpleNamespace(now_s=1000.0)
    service = CacheService(CONFIG, now=lambda: clock.now_s, body_bytes_max=65536)
    transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://cache") as client:
        yield SimpleNamespace(service=service, client=client, clock=clock)
    await service.close()


async def lookups_waiting(cache, count):
    while (await cache.client.get("/stats")).json()["single_flight"]["waiters"] < count:
        await asyncio.sleep(0)


async def the_one_that_is_answered(asked):
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    for _ in range(50):
        await asyncio.sleep(0)
    (answered,) = [task for task in asked if task.done()]
    return answered


async def test_nobody_waits_for_a_router_that_has_fallen_silent(cache):
    def asks(router):
        return cache.client.post("/lookup", json=query(), headers={CACHE_ASKER: router})

    first = await asks("dead")
    waiting = asyncio.create_task(asks("alive"))
    await lookups_waiting(cache, 1)
    for passed_s in (2, 2, 1.9):
        cache.clock.now_s += passed_s
        await cache.client.post("/alive", headers={CACHE_ASKER: "alive"})
    await asyncio.sleep(0.01)
    assert not waiting.done()
    cache.clock.now_s += 2
    await cache.client.post("/alive", headers={CACHE_ASKER: "alive"})
    promoted = await waiting
    assert promoted.headers[CACHE_OUTCOME] == "miss"
    assert promoted.headers[CACHE_LEASE] not in ("", first.headers[CACHE_LEASE])


async def test_who_gives_signs_of_life_keeps_the_lease_and_who_gives_no_name_as_well(cache):
    for router in ("slow", ""):
        named = {CACHE_ASKER: router} if router else {}
        await cache.client.post("/lookup", json=query(key=f"{len(router):064x}"), headers=named)
    for _ in range(5):
        cache.clock.now_s += 5
        for router in ("slow", "other"):
            await cache.client.post("/alive", headers={CACHE_ASKER: router})
    assert (await cache.client.get("/stats")).json()["single_flight"]["leases"] == 2


async def test_miss_store_hit(cache):
    miss = await cache.client.post("/lookup", json=query())
    assert (miss.status_code, miss.headers[CACHE_OUTCOME]) == (204, "miss")
    stored = await cache.client.post(
        "/store", content=SSE, headers=store_headers(**{CACHE_LEASE: miss.headers[CACHE_LEASE]})
    )
    assert stored.status_code == 204
    cache.clock.now_s += 7.5
    hit = await cache.client.post("/lookup", json=query())
    assert (hit.status_code, hit.content) == (200, SSE)
    assert hit.headers["content-type"] == "text/event-stream"
    assert (hit.headers[CACHE_OUTCOME], hit.headers[CACHE_TIER]) == ("hit", "exact")
    assert float(hit.headers[CACHE_AGE]) == pytest.approx(7.5)


@pytest.mark.parametrize("other", [{"tenant": "b"}, {"model": "n"}, {"key": "cd" * 32}])
async def test_answers_stay_in_their_partition(cache, other):
    await cache.client.post("/store", content=SSE, headers=store_headers())
    assert (await cache.client.post("/lookup", json=query(**other))).status_code == 204


async def test_fifty_concurrent_lookups_compute_once(cache):
    asked = [asyncio.create_task(cache.client.post("/lookup", json=query())) for _ in range(50)]
    await lookups_waiting(cache, 49)
    leader = await the_one_that_is_answered(asked)
    lease = leader.result().headers[CACHE_LEASE]
    await cache.client.post("/store", content=SSE, headers=store_headers(**{CACHE_LEASE: lease}))
    answers = [await task for task in asked if task is not leader]
    assert {answer.content for answer in answers} == {SSE}
    assert (await cache.client.get("/stats")).json()["lookups"] == {"hit": 0, "shared": 49, "miss": 1}


async def test_release_promotes_one(cache):
    lease = (await cache.client.post("/lookup", json=query())).headers[CACHE_LEASE]
    asked = [asyncio.create_task(cache.client.post("/lookup", json=query())) for _ in range(5)]
    await lookups_waiting(cache, 5)
    released = await cache.client.post("/release", headers={CACHE_LEASE: lease})
    assert released.status_code == 204
    successor = await the_one_that_is_answered(asked)
    assert (await cache.client.get("/stats")).json()["single_flight"]["waiters"] == 4
    assert successor.result().headers[CACHE_LEASE] != lease
    cache.service._flights.close()
    assert {(await task).status_code for task in asked} == {204}


async def test_without_single_flight_nobody_waits_or_leads(cache):
    for _ in range(2):
        miss = await cache.client.post("/lookup", json=query(single_flight=False))
        assert miss.status_code == 204
        assert CACHE_LEASE not in miss.headers


async def test_an_oversized_answer_is_refused_and_who_waits_computes(cache):
    lease = (await cache.client.post("/lookup", json=query())).headers[CACHE_LEASE]
    waiting = asyncio.create_task(cache.client.post("/lookup", json=query()))
    await lookups_waiting(cache, 1)
    refused = await cache.client.post(
        "/store", content=b"x" * 4097, headers=store_headers(**{CACHE_LEASE: lease})
    )
    assert refused.status_code == 413
    assert CACHE_LEASE not in (await waiting).headers
    assert (await cache.client.get("/stats")).json()["exact"]["too_large"] == 1


async def test_a_purge_also_stops_the_answer_that_is_being_computed(cache):
    await cache.client.post("/store", content=b"old", headers=store_headers(**{CACHE_MODEL: "n"}))
    lease = (await cache.client.post("/lookup", json=query())).headers[CACHE_LEASE]
    assert (await cache.client.post("/purge", json={"tenant": "a"})).json() == {"purged": 1}
    late = await cache.client.post("/store", content=b"old", headers=store_headers(**{CACHE_LEASE: lease}))
    assert late.status_code == 204
    assert (await cache.client.post("/lookup", json=query())).status_code == 204


async def test_a_client_that_disconnects_stops_waiting(cache):
    await cache.client.post("/lookup", json=query())
    gone = asyncio.Event()
    inbox = [{"type": "http.request", "body": httpx.Request("POST", "http://x", json=query()).content}]

    async def receive():
        if inbox:
            return inbox.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_message):
        pass

    scope = {"type": "http", "method": "POST", "path": "/lookup", "headers": [], "query_string": b""}
    call = asyncio.create_task(cache.service.app(scope, receive, send))
    await lookups_waiting(cache, 1)
    gone.set()
    await asyncio.wait_for(call, 5)
    assert cache.service._flights.stats().waiters == 0


JSON = {"content-type": "application/json"}
NONSENSE = [
    ("POST", "/lookup", b"", JSON, 400),
    ("POST", "/lookup", b"{", JSON, 400),
    ("POST", "/lookup", b"\xff\xfe", JSON, 400),
    ("POST", "/lookup", b"[" * 5000, JSON, 400),
    ("POST", "/lookup", b"null", JSON, 400),
    ("POST", "/lookup", b"[]", JSON, 400),
    ("POST", "/lookup", b"{}", JSON, 400),
    ("POST", "/lookup", b"x" * 65537, JSON, 413),
    ("POST", "/lookup", query(tenant=""), JSON, 400),
    ("POST", "/lookup", query(tenant=7), JSON, 400),
    ("POST", "/lookup", query(tenant="two words"), JSON, 400),
    ("POST", "/lookup", query(tenant="t\n"), JSON, 400),
    ("POST", "/lookup", query(tenant="mühle"), JSON, 400),
    ("POST", "/lookup", query(model=None), JSON, 400),
    ("POST", "/lookup", query(model="m" * 257), JSON, 400),
    ("POST", "/lookup", query(key="xyz"), JSON, 400),
    ("POST", "/lookup", query(key=KEY.upper()), JSON, 400),
    ("POST", "/lookup", query(key=[KEY]), JSON, 400),
    ("POST", "/lookup", query(text=3), JSON, 400),
    ("POST", "/lookup", query(single_flight="yes"), JSON, 400),
    ("GET", "/lookup", b"", {}, 405),
    ("POST", "/nowhere", b"", {}, 404),
    ("POST", "/store", SSE, {}, 400),
    ("POST", "/store", SSE, store_headers(**{CACHE_KEY: "short"}), 400),
    ("POST", "/store", SSE, store_headers(**{CACHE_TENANT: ""}), 400),
    ("POST", "/store", SSE, store_headers(**{"content-type": ""}), 400),
    ("POST", "/store", b"x" * 4097, store_headers(), 413),
    ("POST", "/release", b"", {}, 400),
    ("POST", "/purge", b"", JSON, 400),
    ("POST", "/purge", {"tenent": "a"}, JSON, 400),
    ("POST", "/purge", {"tenant": 1}, JSON, 400),
    ("POST", "/v1/embeddings", b"{", JSON, 400),
    ("POST", "/v1/embeddings", {"model": "all-minilm-l6-v2"}, JSON, 400),
    ("POST", "/v1/embeddings", {"model": "all-minilm-l6-v2", "input": [1]}, JSON, 400),
    ("POST", "/v1/embeddings", {"model": "other", "input": "a"}, JSON, 404),
    ("POST", "/v1/embeddings", b'{"model":"all-minilm-l6-v2","input":"\\ud800"}', JSON, 400),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), NONSENSE)
async def test_nonsense_gets_an_openai_shaped_error(cache, method, path, body, headers, status):
    content = body if isinstance(body, bytes) else httpx.Request("POST", "http://x", json=body).content
    answer = await cache.client.request(method, path, content=content, headers=headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert error["code"]


async def test_a_lease_of_another_key_is_refused(cache):
    lease = (await cache.client.post("/lookup", json=query(tenant="b"))).headers[CACHE_LEASE]
    answer = await cache.client.post("/store", content=SSE, headers=store_headers(**{CACHE_LEASE: lease}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "lease_mismatch")
    assert (await cache.client.post("/lookup", json=query())).status_code == 204


async def test_a_body_without_a_declared_length_is_bounded_too(cache):
    async def chunks():
        for _ in range(100):
            yield b"x" * 1000

    assert (await cache.client.post("/lookup", content=chunks())).status_code == 413


async def test_embeddings_through_the_official_client(cache):
    assert (await cache.client.get("/health")).status_code == 503
    early = await cache.client.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": "a"})
    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    await cache.service.start()
    assert (await cache.client.get("/health")).json() == {"status": "ok"}
    client = openai.AsyncOpenAI(base_url="http://cache/v1", api_key="none", http_client=cache.client)
    packed = await client.embeddings.create(model="all-minilm-l6-v2", input=["a tide mill", "a wheel"])
    plain = await client.embeddings.create(
        model="all-minilm-l6-v2", input="a tide mill", encoding_format="float", dimensions=384
    )
    assert [len(row.embedding) for row in packed.data] == [384, 384]
    assert sum(a * b for a, b in zip(packed.data[0].embedding, plain.data[0].embedding, strict=True)) > 0.99
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == 5
    with pytest.raises(openai.BadRequestError, match="at most 4"):
        await client.embeddings.create(model="all-minilm-l6-v2", input=["a"] * 5)


async def test_metrics_are_those_of_the_catalogue(cache):
    await cache.client.post("/lookup", json=query())
    await cache.client.post("/store", content=SSE, headers=store_headers())
    await cache.client.post("/lookup", json=query())
    await cache.client.post("/purge", json={})
    lease = (await cache.client.post("/lookup", json=query())).headers[CACHE_LEASE]
    await cache.client.post("/store", content=SSE, headers=store_headers(**{CACHE_LEASE: lease}))
    text = (await cache.client.get("/metrics")).text
    for line in (
        'tidemill_cache_lookups_total{outcome="hit"} 1.0',
        'tidemill_cache_lookups_total{outcome="shared"} 0.0',
        'tidemill_cache_lookups_total{outcome="miss"} 2.0',
        'tidemill_cache_evictions_total{reason="purged"} 1.0',
        "tidemill_cache_entries 1.0",
        f"tidemill_cache_bytes {float(len(SSE))}",
        "tidemill_cache_waiters 0.0",
    ):
        assert line in text


async def test_answers_past_their_time_are_not_counted(cache):
    await cache.client.post("/store", content=SSE, headers=store_headers())
    cache.clock.now_s += CONFIG.exact.ttl_s
    stats = (await cache.client.get("/stats")).json()["exact"]
    assert (stats["entries"], stats["bytes"], stats["evictions"]["expired"]) == (0, 0, 1)


async def test_a_hit_costs_well_under_a_millisecond_of_processor(cache):
    await cache.client.post("/store", content=SSE, headers=store_headers())
    body = httpx.Request("POST", "http://x", json=query()).content
    scope = {"type": "http", "method": "POST", "path": "/lookup", "headers": [], "query_string": b""}

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(_message):
        pass

    started_s = time.process_time()
    for _ in range(300):
        await cache.service.app(dict(scope), receive, send)
    assert (time.process_time() - started_s) / 300 < 0.001


@pytest.mark.parametrize(
    ("body", "param"),
    [({"wait_s": 1}, "text"), ({"text": "", "wait_s": 1}, "text"), ({"text": "x"}, "wait_s")]
    + [({"text": "x", "wait_s": wait_s}, "wait_s") for wait_s in (-1, 61, "1", True, None)],
)
async def test_a_malformed_request_for_text_signals_is_refused(cache, body, param):
    answer = await cache.client.post("/text-signals", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_without_the_models_that_read_texts_there_are_no_signals(cache):
    answer = await cache.client.post("/text-signals", json={"text": "hello", "wait_s": 1})
    assert answer.status_code == 204
    assert "x-tidemill-text-signals" not in answer.headers
