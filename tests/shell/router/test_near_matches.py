"""Near matches as clients of the router see them: who shares answers, and in which form."""

import asyncio
import json

import pytest

ON = {
    "enabled": True,
    "default": {"threshold": 0.8, "threshold_min": 0.6, "explore_share": 0.0},
    "contract": {"verified": False},
    "break_even": {"enabled": False},
    "embedding_wait_s": 20.0,
}
ASKED = "How do I reset the password of my account?"
PARAPHRASE = "What is the way to reset my account password?"
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "sim",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Click."}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }
).encode()


def outcome(answer):
    return answer.headers["x-tidemill-cache"]


@pytest.fixture
async def caching(start_cluster, given):
    return await start_cluster(
        {"semantic_cache": {"semantic": ON, "lookup_timeout_s": 20.0}},
        stand_ins={
            "decode-0": given.engine_that(ANSWER, content_type="application/json"),
            "decode-1": given.engine_that(ANSWER, content_type="application/json"),
        },
        encoder=True,
    )


async def asked(cluster, text, **fields):
    answer = await cluster.chat(text, temperature=0, **fields)
    await cluster.decision(answer)
    return answer


async def test_a_paraphrase_gets_the_answer_whole_or_as_a_stream(caching):
    assert outcome(await asked(caching, ASKED)) == "miss"
    found = await asked(caching, PARAPHRASE)
    assert (outcome(found), found.headers["x-tidemill-path"]) == ("semantic", "cached")
    assert found.json["choices"][0]["message"]["content"] == "Click."
    assert float(found.headers["x-tidemill-cache-similarity"]) > 0.9
    streamed = await asked(caching, PARAPHRASE, stream=True, stream_options={"include_usage": True})
    assert outcome(streamed) == "semantic"
    assert streamed.events[-1] == "[DONE]"
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in streamed.events[:-2]) == "Click."
    assert streamed.events[-2]["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"authorization": "Bearer other"}, {}),
        ({"x_tidemill_knowledge_version": "2"}, {}),
        ({"x_tidemill_cache": "off"}, {}),
        ({"cache_control": "no-cache"}, {}),
        ({}, {"max_tokens": 3}),
    ],
)
async def test_who_does_not_share_is_answered_afresh(caching, headers, fields):
    await asked(caching, ASKED)
    assert outcome(await asked(caching, PARAPHRASE, headers=headers, **fields)) in {"miss", "bypass"}


async def test_operators_see_inspect_and_purge_what_is_near_a_text(caching, given):
    key = f"Bearer {given.admin_key}"
    await asked(caching, ASKED)
    entry = (await asked(caching, PARAPHRASE)).headers["x-tidemill-cache-entry"]
    stats = await caching.get("/admin/cache/stats", key=given.admin_key)
    assert stats.json["replicas"][0]["semantic"]["entries"] == 1
    listed = await caching.post("/admin/cache/inspect", {"text": ASKED}, authorization=key)
    assert [(e["entry_id"], e["text"]) for e in listed.json["entries"]] == [(entry, ASKED)]
    purged = await caching.post("/admin/cache/purge", {"text": PARAPHRASE}, authorization=key)
    assert purged.json == {"purged": 1}
    assert outcome(await asked(caching, PARAPHRASE)) == "miss"


async def test_a_cache_that_hangs_is_waited_for_no_longer_than_its_own_time(start_cluster, given):
    cluster = await start_cluster({"semantic_cache": {"lookup_timeout_s": 0.2}})
    assert cluster.config.semantic_cache.exact.single_flight_wait_s > 60
    cluster.cache.app.middleware_stack = given.engine_that(b"", then="hang silently")
    answer = await asyncio.wait_for(cluster.chat(temperature=0), 5)
    assert (answer.status, outcome(answer)) == (200, "bypass")
    metrics = (await cluster.get("/metrics")).content
    assert b"tidemill_lookups_skipped_total 1.0" in metrics


async def test_what_may_share_an_answer_always_goes_to_the_same_replica(caching):
    client = caching.core.cache
    replicas = [f"http://10.0.0.{number}:1" for number in range(5)]
    client._urls = lambda: replicas
    owners = {key: client._owner(key) for key in map(str, range(500))}
    assert set(owners.values()) == set(replicas)
    client._urls = lambda: replicas[:-1]
    moved = [key for key, owner in owners.items() if client._owner(key) != owner]
    assert moved == [key for key, owner in owners.items() if owner == replicas[-1]]
