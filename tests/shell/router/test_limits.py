"""At every bound a clear answer: 413, 429, 503, 504, never growth without end."""

import asyncio
import time

import aiohttp
import orjson
import pytest

from deployments.router.asgi import RouterApp

SLOW = {"step_base_s": 0.02}
CHAT = {"model": "sim", "messages": [{"role": "user", "content": "hello"}]}


def slow_cluster(gateway=None, decode=None, engine=None):
    pool = {"replicas": {"min": 1, "max": 1}, "engine": SLOW | (engine or {}), **(decode or {})}
    return {"gateway": gateway or {}, "pools": {"decode": pool}, "semantic_cache": {"enabled": False}}


async def peak(measure, requests):
    """Run requests; their answers and the highest value seen meanwhile."""
    asking = asyncio.gather(*requests)
    highest = 0
    while not asking.done():
        highest = max(highest, measure())
        await asyncio.sleep(0.002)
    return await asking, highest


@pytest.mark.parametrize("phase", ["nobody", "put aside"])
async def test_with_nothing_running_a_request_waits_and_is_then_told_to_come_back(start_cluster, phase):
    aside = {"put_aside_first_s": 60, "put_aside_max_s": 60}
    changes = {"gateway": {"queue_timeout_s": 0.3}, "routing": {"replicas": aside}}
    cluster = await start_cluster(changes)
    if phase == "nobody":
        cluster.remove(*list(cluster.engines))
    else:
        for name in list(cluster.engines):
            cluster.core.picture.failed(name, now_s=cluster.core.now_s(), draw=0.5)
    started_s = cluster.core.now_s()
    answer = await cluster.chat()
    assert 0.25 < cluster.core.now_s() - started_s < 2
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json["error"]["code"] == "overloaded"
    words = "is running" if phase == "nobody" else "just failed"
    assert words in answer.json["error"]["message"]
    record = await cluster.decision(answer)
    assert (record["status"], record["path"]) == (503, None)
    assert cluster.engine_requests == 0
    await cluster.assert_idle()


async def test_who_waits_is_answered_as_soon_as_a_replica_comes(cluster):
    gone = dict(cluster.engines)
    cluster.remove(*gone)
    waiting = asyncio.create_task(cluster.chat())
    await cluster.until(lambda: cluster.core.queue.queued == 1)
    cluster.engines.update(gone)
    answer = await waiting
    assert answer.status == 200
    assert "queued" in (await cluster.decision(answer))["reasons"]
    await cluster.assert_idle()


async def test_who_was_served_at_once_has_not_queued_however_long_it_took(cluster, monkeypatch):
    choose = cluster.core.choose_answering

    def slowly(*arguments):
        time.sleep(0.02)  # a busy machine
        return choose(*arguments)

    monkeypatch.setattr(cluster.core, "choose_answering", slowly)
    answer = await cluster.chat()
    assert answer.status == 200
    assert "queued" not in (await cluster.decision(answer))["reasons"]


async def test_without_tokens_there_is_no_waiting(cluster):
    cluster.remove(*list(cluster.engines))
    answer = await cluster.post("/tokenize", {"model": "sim", "prompt": "a"})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1


async def in_one_instant(cluster, count):
    """So many requests straight at the application, none a loop iteration later than another.

    Returns:
        The statuses, and how many were in flight when the first of them was answered.
    """
    app = RouterApp(cluster.core)
    statuses: list[int] = []
    in_flight: list[int] = []

    async def ask(number):
        body = [orjson.dumps({"model": "sim", "prompt": f"hello {number}"})]

        async def receive():
            if body:
                return {"type": "http.request", "body": body.pop()}
            return await asyncio.get_running_loop().create_future()

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                in_flight.append(cluster.core.queue.in_flight)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
        await app(scope, receive, send)

    await asyncio.gather(*(ask(number) for number in range(count)))
    await cluster.assert_idle()
    return statuses, in_flight[0]


FEW = {"max_concurrent_requests": 2, "max_queued_requests": 2}


async def test_overload_is_a_429_with_a_time_to_come_back(start_cluster):
    cluster = await start_cluster(slow_cluster(FEW))
    answers, waiting = await peak(
        lambda: cluster.core.queue.queued, [cluster.chat(f"hello {n}") for n in range(20)]
    )
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {200, 429}
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json["error"]["type"] == "rate_limit_error"
        assert answer.json["error"]["code"] == "rate_limit_exceeded"
    assert waiting <= 2
    assert await cluster.metric('tidemill_rejected_total{reason="queue_full"}') == len(refused)
    await cluster.assert_idle()


async def test_what_would_come_too_late_is_shed_where_that_is_asked_for(start_cluster):
    # The second prompt would wait for the first one's.
    engine = {"prefill_tokens_per_s": 200}
    routing = {
        "routing": {
            "disaggregation": {"enabled": False},
            "replicas": {"assumed_prefill_tokens_per_s": 200},
        }
    }
    cluster = await start_cluster(slow_cluster({"shed_ttft_s": 1.5}, engine=engine) | routing)
    first = asyncio.create_task(cluster.chat("hello " * 150))
    await asyncio.sleep(0.3)
    shed = await cluster.chat("again " * 150)
    assert shed.status == 429
    assert int(shed.headers["retry-after"]) >= 1
    assert "first token" in shed.json["error"]["message"]
    assert (await first).status == 200
    assert await cluster.metric('tidemill_rejected_total{reason="too_late"}') == 1
    await cluster.assert_idle()


async def test_in_flight_stays_within_the_bounds_in_a_burst(start_cluster):
    _, in_flight = await in_one_instant(await start_cluster(slow_cluster(FEW)), 20)
    assert in_flight <= 4


async def test_a_burst_fills_the_places_that_are_free(start_cluster):
    statuses, _ = await in_one_instant(await start_cluster(slow_cluster(FEW)), 20)
    assert sorted(statuses) == [200] * 4 + [429] * 16


async def test_a_model_without_replicas_does_not_block_another_one(start_cluster):
    cluster = await start_cluster(
        {
            "models": {"other": {"source": "simulated"}},
            "pools": {"spare": {"model": "other", "engine": {"kind": "simulated", "step_base_s": 0}}},
            "gateway": {"max_concurrent_requests": 2, "queue_timeout_s": 2},
        },
        beat=False,
    )
    cluster.remove("prefill-0", "decode-0", "decode-1")
    blocked = [asyncio.create_task(cluster.chat()) for _ in range(3)]
    await cluster.until(lambda: cluster.core.queue.queued == 3)
    started_s = cluster.core.now_s()
    answer = await cluster.chat(model="other")
    took_s = cluster.core.now_s() - started_s
    for task in blocked:
        task.cancel()
    assert answer.status == 200
    assert took_s < 1


async def test_no_more_run_at_a_time_than_are_allowed_to(start_cluster):
    cluster = await start_cluster(slow_cluster({"max_concurrent_requests": 2, "max_queued_requests": 8}))
    answers, running = await peak(
        lambda: cluster.engines["decode-0"].running, [cluster.chat(f"hello {n}") for n in range(8)]
    )
    assert {answer.status for answer in answers} == {200}
    assert running <= 2


async def test_a_replicas_own_limit_is_kept_and_the_rest_waits_its_turn(start_cluster):
    cluster = await start_cluster(slow_cluster(decode={"max_concurrent_requests": 2}))
    cluster.remove("prefill-0")
    answers, running = await peak(
        lambda: cluster.engines["decode-0"].running, [cluster.chat(f"hello {n}") for n in range(7)]
    )
    assert {answer.status for answer in answers} == {200}
    assert running == 2
    await cluster.assert_idle()


async def test_a_slow_answer_is_a_504_and_the_engine_stops_working_on_it(start_cluster):
    cluster = await start_cluster(slow_cluster({"request_timeout_s": 0.3}, engine={"output_tokens": 500}))
    answer = await cluster.chat()
    assert (answer.status, answer.json["error"]["code"]) == (504, "timeout")
    await cluster.assert_idle()
    record = await cluster.decision(answer)
    assert (record["status"], record["error"]) == (504, "timed out")


async def test_a_slow_stream_ends_with_an_error_event(start_cluster):
    cluster = await start_cluster(slow_cluster({"request_timeout_s": 0.3}, engine={"output_tokens": 500}))
    answer = await cluster.chat(stream=True)
    assert answer.status == 200
    assert len(answer.events) > 3
    assert answer.events[-1]["error"]["code"] == "timeout"
    await cluster.assert_idle()


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/tokenize", "/v1/feedback"])
async def test_what_any_page_in_a_browser_may_send_is_refused(cluster, path, kind):
    body = b'{"model":"sim","messages":[{"role":"user","content":"hi"}]}'
    answer = await cluster.post(path, body, content_type=kind)
    assert answer.status == 415
    assert "application/json" in answer.json["error"]["message"]
    assert cluster.engine_requests == 0
    said = await cluster.post("/v1/chat/completions", body, content_type="Application/JSON; charset=utf-8")
    assert said.status == 200


async def chunks(size):
    """A body of unknown length."""
    for _ in range(size // 1000):
        yield b" " * 1000


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/tokenize", "/v1/embeddings"])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_beyond_the_bound_is_a_413(cluster, path, declared):
    data = b" " * 70_000 if declared else chunks(70_000)
    async with cluster.http.post(cluster.url + path, data=data, headers=JSON) as response:
        assert response.status == 413
        error = (await response.json())["error"]
    assert "65536 bytes" in error["message"]
    assert error["type"] == ("request_too_large" if path == "/v1/messages" else "invalid_request_error")
    assert cluster.engine_requests == 0
    await cluster.assert_idle()


async def test_a_body_just_within_the_bound_is_read(cluster):
    body = b'{"model":"sim","prompt":"a"}'
    answer = await cluster.post("/v1/completions", body + b" " * (65_536 - len(body)))
    assert answer.status == 200


async def test_an_endless_body_is_cut_off(cluster):
    async def endless():
        while True:
            yield b" " * 60_000
            await asyncio.sleep(0)

    async def send():
        async with cluster.http.post(
            f"{cluster.url}/v1/completions", data=endless(), headers=JSON
        ) as response:
            return response.status

    try:
        status = await asyncio.wait_for(send(), 5)
    except aiohttp.ClientError:
        status = 413  # The connection was closed under the sender's hands.
    assert status == 413
    assert (await cluster.chat()).status == 200
