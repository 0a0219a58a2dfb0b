"""Replicas that fail before the first byte: others are asked, and no client notices."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cluster.entities.pool import ReplicaPhase

JSON = "application/json"
ONE_POOL = {"pools": {"decode": {"replicas": {"min": 1, "max": 1}}}}
CHAT = {"model": "sim", "messages": [{"role": "user", "content": "hello"}]}
MESSAGES = {**CHAT, "max_tokens": 8}
START = b'event: message_start\ndata: {"type":"message_start","message":{"id":"from-the-broken-one"}}\n\n'


class FailsOnce:
    """An engine whose first answer is an error."""

    def __init__(self, app):
        self._app, self._failed = app, False

    async def __call__(self, scope, receive, send):
        if self._failed:
            await self._app(scope, receive, send)
            return
        self._failed = True
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"out of luck"})


async def ask_often(cluster, count, **fields):
    """So many requests after one another; the answers."""
    return [await cluster.chat(f"hello {number}", **fields) for number in range(count)]


def served_by(answers):
    return {answer.headers["x-tidemill-replica"] for answer in answers}


def first_tried(record):
    return record["attempts"][0]["replica_id"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_dead_replica_costs_no_request_and_is_put_aside(start_cluster, stream):
    cluster = await start_cluster(
        {"routing": {"replicas": {"put_aside_first_s": 30, "put_aside_max_s": 30}}},
        stand_ins={"decode-0": "closed"},
        draw=0.0,
    )
    answers = await ask_often(cluster, 6, stream=stream)
    assert {answer.status for answer in answers} == {200}
    assert served_by(answers) == {"decode-1"}
    assert await cluster.metric('tidemill_replica_failures_total{pool="decode"}') == 1
    assert await cluster.metric('tidemill_retries_total{reason="replica_failed"}') == 1
    records = [await cluster.decision(answer) for answer in answers]
    (retried,) = [record for record in records if "retried" in record["reasons"]]
    assert [(a["replica_id"], a["outcome"], a["reason"]) for a in retried["attempts"]] == [
        ("decode-0", "failed", "replica_failed"),
        ("decode-1", "answered", None),
    ]
    await cluster.assert_idle()


async def test_twenty_at_once_survive_a_dead_replica(start_cluster):
    cluster = await start_cluster(stand_ins={"decode-0": "closed"}, draw=0.0)
    answers = await asyncio.gather(*(cluster.chat(f"hello {n}", stream=n % 2 == 0) for n in range(20)))
    assert {answer.status for answer in answers} == {200}
    await cluster.assert_idle()


async def test_a_replica_that_is_well_again_is_asked_again(start_cluster):
    cluster = await start_cluster(stand_ins={"decode-0": "closed"}, draw=0.0)
    assert served_by(await ask_often(cluster, 2)) == {"decode-1"}
    sane = cluster.engines["decode-1"]
    # The dead port is taken over by a living engine: here the other one, under the name of the first.
    cluster.engines["decode-0"].report = replace(cluster.engines["decode-0"].report, url=sane.report.url)
    await asyncio.sleep(0.6)
    assert served_by(await ask_often(cluster, 1)) == {"decode-0"}


async def test_without_any_decode_replica_a_prefill_replica_answers(start_cluster, given):
    cluster = await start_cluster(stand_ins={"decode-0": "closed", "decode-1": "closed"})
    for text in ("hello", given.long_prompt):
        answer = await cluster.chat(text)
        assert answer.status == 200
        assert answer.headers["x-tidemill-pool"] == "prefill"
        assert answer.headers["x-tidemill-path"] == "combined"
    record = await cluster.decision(answer)
    assert "last_resort" in record["reasons"]
    cluster.remove("decode-0", "decode-1")
    assert (await cluster.chat()).headers["x-tidemill-replica"] == "prefill-0"
    await cluster.assert_idle()


BROKEN: dict[str, Any] = {
    "status 429": ({"status": 429, "content_type": JSON}, b'{"error":{}}'),
    "status 500": ({"status": 500, "content_type": JSON}, b'{"error":{}}'),
    "status 502": ({"status": 502, "content_type": "text/html"}, b"<html>"),
    "status 503": ({"status": 503, "content_type": JSON}, b'{"error":{}}'),
    "status 504": ({"status": 504, "content_type": "text/plain"}, b""),
    "status 500, broken": ({"status": 500, "then": "break"}, b"out of"),
}
BROKEN_WHOLE: dict[str, Any] = {
    **BROKEN,
    "no JSON": ({"content_type": JSON}, b"<html>"),
    "half JSON": ({"content_type": JSON}, b'{"id":'),
    "nothing": ({"content_type": JSON}, b""),
    "half, broken": ({"content_type": JSON, "then": "break"}, b'{"id":'),
}
BROKEN_STREAMS: dict[str, Any] = {
    **BROKEN,
    "an empty stream": ({}, b""),
    "broken at once": ({"then": "break"}, b""),
    "an error first": ({}, b'data: {"error":{"message":"dead"}}\n\ndata: [DONE]\n\n'),
    "half an event, broken": ({"then": "break"}, b'data: {"id":"c","choi'),
}


async def assert_another_answers(cluster, bad, stream):
    answers = await ask_often(cluster, 2, stream=stream)
    assert {answer.status for answer in answers} == {200}
    assert served_by(answers) == {"decode-1"}
    records = [await cluster.decision(answer) for answer in answers]
    assert first_tried(records[0]) == "decode-0"
    assert cluster.engines["decode-0"].counting.total >= 1
    if stream:
        assert all(answer.events[-1] == "[DONE]" for answer in answers)
        assert not any(bad and bad in answer.content for answer in answers)
    else:
        assert all(answer.json["usage"]["completion_tokens"] == 8 for answer in answers)
    await cluster.assert_idle()


@pytest.mark.parametrize("name", list(BROKEN_WHOLE))
async def test_another_replica_answers_what_one_could_not(start_cluster, given, name):
    options, content = BROKEN_WHOLE[name]
    cluster = await start_cluster(stand_ins={"decode-0": given.engine_that(content, **options)}, draw=0.0)
    await assert_another_answers(cluster, content, stream=False)


@pytest.mark.parametrize("name", list(BROKEN_STREAMS))
async def test_another_replica_streams_what_one_could_not_begin(start_cluster, given, name):
    options, content = BROKEN_STREAMS[name]
    cluster = await start_cluster(stand_ins={"decode-0": given.engine_that(content, **options)}, draw=0.0)
    await assert_another_answers(cluster, content, stream=True)


async def messages_from_a_broken_one(start_cluster, given, **options):
    cluster = await start_cluster(stand_ins={"decode-0": given.engine_that(START, **options)}, draw=0.0)
    return [await cluster.post("/v1/messages", {**MESSAGES, "stream": True}) for _ in range(2)]


@pytest.mark.parametrize("then", ["break", "end"])
async def test_announcements_alone_do_not_commit_to_a_replica(start_cluster, given, then):
    for answer in await messages_from_a_broken_one(start_cluster, given, then=then):
        assert answer.content.count(b"event: message_start") == 1
        assert b"from-the-broken-one" not in answer.content
        assert answer.content.rstrip().endswith(b'data: {"type":"message_stop"}')


async def test_a_replica_that_closes_the_connection_without_a_word(start_cluster):
    cluster = await start_cluster(draw=0.0)

    async def close(_reader, writer):
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    cluster.engines["decode-0"].report = replace(cluster.engines["decode-0"].report, url=url)
    cluster.tell()
    answers = await ask_often(cluster, 2)
    assert first_tried(await cluster.decision(answers[0])) == "decode-0"
    server.close()
    assert {answer.status for answer in answers} == {200}
    assert served_by(answers) == {"decode-1"}


@pytest.mark.parametrize("stream", [False, True])
async def test_attempts_are_bounded_and_the_last_failure_is_told(start_cluster, given, stream):
    failing = given.engine_that(b"out of memory", status=500, content_type="text/plain")
    cluster = await start_cluster(
        {**ONE_POOL, "gateway": {"max_attempts": 3}},
        stand_ins={"decode-0": failing, "prefill-0": failing},
    )
    answer = await cluster.chat(stream=stream)
    assert answer.status == 502
    assert answer.json["error"]["code"] == "engine_failed"
    assert answer.json["error"]["type"] == "server_error"
    assert "out of memory" in answer.json["error"]["message"]
    assert cluster.engine_requests == 3
    record = await cluster.decision(answer)
    assert record["status"] == 502
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["failed"] * 3
    await cluster.assert_idle()


async def test_a_single_replica_gets_a_second_chance(start_cluster):
    cluster = await start_cluster(ONE_POOL)
    cluster.remove("prefill-0")
    engine, calls = cluster.engines["decode-0"], []

    async def fails_once(scope, receive, send):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("the first request fails on purpose")
        await engine.app(scope, receive, send)

    engine.counting.app = fails_once
    answer = await cluster.chat()
    assert answer.status == 200
    assert len(calls) == 2


async def test_requests_without_tokens_are_tried_elsewhere_too(start_cluster):
    cluster = await start_cluster(stand_ins={"decode-0": "closed"}, draw=0.0)
    for _ in range(3):
        answer = await cluster.post("/tokenize", {"model": "sim", "prompt": "a tide mill"})
        assert (answer.status, answer.json["count"]) == (200, 3)
    await cluster.assert_idle()


async def test_who_waits_for_another_replica_keeps_nobody_from_the_one_it_failed_on(start_cluster):
    pool = {"decode": {"max_concurrent_requests": 1, "engine": {"output_tokens": 5000, "step_base_s": 0.001}}}
    cluster = await start_cluster({"pools": pool, "semantic_cache": {"enabled": False}}, draw=0.0)
    flawed = FailsOnce(cluster.engines["decode-0"].counting.app)
    cluster.set_phase("decode-0", ReplicaPhase.DRAINING)
    long = asyncio.create_task(cluster.chat("long", max_tokens=2000))
    await cluster.until(lambda: cluster.engines["decode-1"].running == 1)
    cluster.engines["decode-0"].counting.app = flawed
    cluster.set_phase("decode-0", ReplicaPhase.READY)
    unlucky = asyncio.create_task(cluster.chat("unlucky", max_tokens=2))
    await cluster.until(lambda: cluster.core.queue.queued == 1)
    async with asyncio.timeout(1.0):
        assert (await cluster.chat("next", max_tokens=2)).status == 200
    assert not long.done()
    assert not unlucky.done()
    long.cancel()
    assert (await unlucky).headers["x-tidemill-replica"] == "decode-1"
