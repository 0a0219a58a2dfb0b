"""The semantic cache as clients of the router see it: what is answered from it, and that it can only help."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from deployments.router import cache_client

TURNS = [{"role": "user", "content": "hello"}]
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {"messages": TURNS},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": TURNS, "max_tokens": 8},
}
OFF = {"x_tidemill_cache": "off"}
ON = {"x_tidemill_cache": "on"}


def outcome(answer):
    return answer.headers["x-tidemill-cache"]


async def settled(cluster, answer):
    """The answer, when the cache has it too."""
    await cluster.decision(answer)
    return answer


async def twice(cluster, first=None, second=None, **fields):
    """The cache's outcome for two equal requests with these headers."""
    one = await settled(cluster, await cluster.chat(headers=first, **fields))
    two = await settled(cluster, await cluster.chat(headers=second, **fields))
    assert (one.status, two.status) == (200, 200)
    return outcome(one), outcome(two)


async def test_an_answer_of_other_knowledge_is_none(cluster):
    old, new = {"x_tidemill_knowledge_version": "1"}, {"x_tidemill_knowledge_version": "2"}
    assert await twice(cluster, old, new, temperature=0) == ("miss", "miss")
    assert await twice(cluster, new, old, temperature=0) == ("exact", "exact")


@pytest.mark.parametrize("echoed", [{"metadata": {"ticket": "1"}}, {"user": "jane"}])
async def test_a_response_is_none_for_who_says_other_things_that_it_repeats(cluster, echoed):
    body = {"model": "sim", "temperature": 0, "input": "hello"}
    await settled(cluster, await cluster.post("/v1/responses", body))
    other = await cluster.post("/v1/responses", {**body, **echoed})
    assert outcome(other) == "miss"
    assert other.json["metadata"] == echoed.get("metadata")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", list(BODIES))
async def test_the_second_equal_request_is_answered_without_an_engine(cluster, path, stream):
    body = {"model": "sim", "temperature": 0, "stream": stream, **BODIES[path]}
    first = await settled(cluster, await cluster.post(path, body))
    asked = cluster.engine_requests
    second = await cluster.post(path, body)
    assert cluster.engine_requests == asked
    assert (outcome(first), outcome(second)) == ("miss", "exact")
    assert second.headers["x-tidemill-path"] == "cached"
    assert second.headers["x-tidemill-model"] == "sim"
    assert int(second.headers["age"]) >= 0
    assert second.headers["content-type"] == first.headers["content-type"]
    ids = [answer.headers["x-tidemill-decision-id"] for answer in (first, second)]
    assert second.content.replace(ids[1][2:].encode(), ids[0].encode()) == first.content
    assert first.content != second.content
    record = await cluster.decision(second)
    assert (record["path"], record["cache"], record["reasons"]) == ("cached", "exact", ["cache_hit"])
    assert record["attempts"] == []


async def test_a_stored_answer_is_recorded_as_a_good_one(cluster):
    record = await cluster.decision(await cluster.chat(temperature=0))
    assert record["error"] is None
    assert record["reasons"] == ["cache_miss"]


@pytest.mark.parametrize(
    ("first", "second", "fields", "outcomes"),
    [
        (None, None, {}, ("bypass", "bypass")),
        (None, None, {"temperature": 0.7}, ("bypass", "bypass")),
        (ON, ON, {"temperature": 0.7}, ("miss", "exact")),
        (ON, None, {"temperature": 0.7}, ("miss", "bypass")),
        (OFF, None, {"temperature": 0}, ("bypass", "miss")),
        (None, OFF, {"temperature": 0}, ("miss", "bypass")),
        (None, {"cache_control": "no-cache"}, {"temperature": 0}, ("miss", "bypass")),
        ({"cache_control": "no-store"}, None, {"temperature": 0}, ("bypass", "miss")),
        (None, None, {"temperature": 0, "tools": [{"type": "function"}]}, ("bypass", "bypass")),
        (None, None, {"temperature": 0, "user": "u"}, ("miss", "exact")),
        ({"authorization": "Bearer a"}, {"authorization": "Bearer b"}, {"temperature": 0}, ("miss", "miss")),
        ({"authorization": "Bearer a"}, {"x_api_key": "a"}, {"temperature": 0}, ("miss", "exact")),
    ],
)
async def test_who_decides_about_caching(cluster, first, second, fields, outcomes):
    assert await twice(cluster, first, second, **fields) == outcomes


async def test_a_stream_is_not_answered_with_a_whole_answer(cluster):
    await settled(cluster, await cluster.chat(temperature=0))
    streamed = await settled(cluster, await cluster.chat(temperature=0, stream=True))
    assert outcome(streamed) == "miss"
    assert streamed.events[-1] == "[DONE]"
    with_usage = await cluster.chat(temperature=0, stream=True, stream_options={"include_usage": True})
    assert outcome(with_usage) == "miss"
    assert with_usage.events[-2]["usage"]


async def test_refusals_are_not_cached(cluster):
    for _ in range(2):
        refused = await settled(cluster, await cluster.chat(temperature=0, max_tokens=10**6))
        assert (refused.status, outcome(refused)) == (400, "miss")


@pytest.mark.parametrize("stream", [False, True])
async def test_large_answers_are_not_cached(start_cluster, stream):
    cluster = await start_cluster({"semantic_cache": {"exact": {"entry_bytes_max": 1024}}})
    long = {"temperature": 0, "max_tokens": 200, "stream": stream}
    assert await twice(cluster, **long) == ("miss", "miss")


@pytest.mark.parametrize("stream", [False, True])
async def test_twenty_equal_requests_at_once_are_computed_once(cluster, stream):
    asking = (cluster.chat("the same", temperature=0, stream=stream) for _ in range(20))
    answers = await asyncio.gather(*asking)
    assert {answer.status for answer in answers} == {200}
    assert cluster.engine_requests == 1
    assert sorted(map(outcome, answers)) == ["exact"] * 19 + ["miss"]
    assert len({answer.headers["x-tidemill-decision-id"] for answer in answers}) == 20
    assert len({answer.content for answer in answers}) == 20
    await cluster.assert_idle()


async def test_if_the_one_that_computes_fails_the_others_are_answered_all_the_same(start_cluster, given):
    cluster = await start_cluster({"gateway": {"max_attempts": 1}}, draw=0.0)
    sane, calls = cluster.engines["decode-0"].counting.app, []

    async def fails_once(scope, receive, send):
        calls.append(1)
        if len(calls) == 1:
            await given.engine_that(b"{}", status=500, content_type="application/json")(scope, receive, send)
        else:
            await sane(scope, receive, send)

    cluster.engines["decode-0"].counting.app = fails_once
    answers = await asyncio.gather(*(cluster.chat(temperature=0) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200] * 5 + [502]
    assert cluster.engine_requests == 2


def _broken_off(stream, finish):
    choice = {"index": 0, "finish_reason": finish}
    told = {"role": "assistant", "content": "Half an"}
    content = {"id": "chatcmpl-1", "model": "sim"}
    if not stream:
        whole = {**content, "object": "chat.completion", "choices": [{**choice, "message": told}]}
        return orjson.dumps(whole), "application/json"
    event = {**content, "object": "chat.completion.chunk", "choices": [{**choice, "delta": told}]}
    return b"data: " + orjson.dumps(event) + b"\n\ndata: [DONE]\n\n", "text/event-stream"


@pytest.mark.parametrize("finish", ["abort", "error"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_an_engine_broke_off_is_not_given_to_others(start_cluster, given, stream, finish):
    cluster = await start_cluster(draw=0.0)
    body, content_type = _broken_off(stream, finish)
    cluster.engines["decode-0"].counting.app = given.engine_that(body, status=200, content_type=content_type)
    answers = [await cluster.chat(temperature=0, stream=stream) for _ in range(2)]
    assert [outcome(answer) for answer in answers] == ["miss", "exact"]
    assert not any(b"Half an" in answer.content for answer in answers), "another replica was asked"


async def test_the_leader_that_leaves_is_succeeded(start_cluster):
    cluster = await start_cluster({"pools": {"decode": {"engine": {"step_base_s": 0.03}}}})
    leader = asyncio.create_task(cluster.chat(temperature=0))
    await cluster.until(lambda: cluster.engine_requests == 1)
    follower = asyncio.create_task(cluster.chat(temperature=0))
    await cluster.until(lambda: cluster.cache._flights.stats().waiters == 1)
    leader.cancel()
    answer = await asyncio.wait_for(follower, 3)
    assert (answer.status, outcome(answer)) == (200, "miss")
    await cluster.assert_idle()


async def test_a_whole_answer_is_no_failure_because_the_cache_takes_it_late(
    start_cluster, monkeypatch, caplog
):
    cluster = await start_cluster({"gateway": {"request_timeout_s": 0.5}})
    store = cluster.core.cache.store

    async def late(*arguments, **named):
        await asyncio.sleep(0.8)
        await store(*arguments, **named)

    monkeypatch.setattr(cluster.core.cache, "store", late)
    answer = await cluster.chat(temperature=0)
    assert answer.status == 200
    record = await cluster.decision(answer)
    assert (record["status"], record["error"]) == (200, None)
    assert not [entry for entry in caplog.records if entry.exc_info]
    await cluster.until(lambda: cluster.cache._exact.stats().entries == 1)


async def test_a_cache_that_is_not_there_costs_nothing(start_cluster):
    cluster = await start_cluster(cache=False)
    assert await twice(cluster, temperature=0) == ("bypass", "bypass")
    record = await cluster.decision(await cluster.chat(temperature=0))
    assert record["reasons"] == ["cache_unavailable"]


async def test_a_cache_that_is_switched_off_is_not_asked(start_cluster):
    cluster = await start_cluster({"semantic_cache": {"enabled": False}})
    assert await twice(cluster, temperature=0) == ("bypass", "bypass")
    assert cluster.cache._lookups["miss"] == 0


@pytest.mark.parametrize(
    "behaviour",
    [
        {"then": "hang silently"},
        {"then": "break"},
        {"status": 500},
        {"status": 200, "content_type": "text/html"},
    ],
)
async def test_a_cache_that_misbehaves_costs_no_request(start_cluster, given, behaviour):
    exact = {"single_flight_wait_s": 0.1}
    cluster = await start_cluster({"semantic_cache": {"lookup_timeout_s": 0.1, "exact": exact}})
    # Starlette routes nothing any more: the port answers as it is told to.
    cluster.cache.app.middleware_stack = given.engine_that(b"<html>", **behaviour)
    answer = await cluster.chat(temperature=0)
    assert (answer.status, outcome(answer)) == (200, "bypass")
    assert answer.json["usage"]["completion_tokens"] == 8
    await cluster.assert_idle()


async def test_a_purge_is_heard(cluster, given):
    assert await twice(cluster, temperature=0) == ("miss", "exact")
    key = f"Bearer {given.admin_key}"
    purged = await cluster.post("/admin/cache/purge", {"model": "sim"}, authorization=key)
    assert (purged.status, purged.json) == (200, {"purged": 1})
    assert await twice(cluster, temperature=0) == ("miss", "exact")
    wrong = await cluster.post("/admin/cache/purge", {"modell": "sim"}, authorization=key)
    assert wrong.status == 400
    assert (await cluster.post("/admin/cache/purge", {}, authorization="Bearer no")).status == 401


async def test_a_purge_reaches_the_others_where_one_replica_is_gone(cluster, given):
    assert await twice(cluster, temperature=0) == ("miss", "exact")
    alive = cluster.services
    gone = replace(alive[0], replica_id="gone", url=f"http://{given.host}:1")
    cluster.services = (gone, *alive, replace(gone, replica_id="gone-too", url=f"http://{given.host}:2"))
    cluster.tell()
    purged = await cluster.post("/admin/cache/purge", {}, authorization=f"Bearer {given.admin_key}")
    assert purged.status == 503
    cluster.services = alive
    cluster.tell()
    assert await twice(cluster, temperature=0) == ("miss", "exact")


async def test_a_router_gives_signs_of_life_without_being_asked_anything(start_cluster, monkeypatch):
    monkeypatch.setattr(cache_client, "_SIGN_OF_LIFE_S", 0.02)
    cluster = await start_cluster()
    await cluster.until(lambda: not cluster.cache._askers.silent("r"))
