"""Clients that leave: the engine stops, every counter comes back, and the record says so."""

import asyncio

import aiohttp
import orjson
import pytest

SLOW = {"pools": {"decode": {"engine": {"step_base_s": 0.02, "output_tokens": 2000}}}}
CHAT = {"model": "sim", "messages": [{"role": "user", "content": "hello"}]}


def running(cluster, pool="decode"):
    return sum(engine.running for name, engine in cluster.engines.items() if name.startswith(pool))


def last_record(cluster):
    return orjson.loads(next(reversed(cluster.core.decisions._latest.values())))


async def leave_stream(cluster, path, body):
    """Read the beginning of a stream and close the connection."""
    async with aiohttp.ClientSession() as http:
        response = await http.post(cluster.url + path, json={**body, "stream": True})
        assert await response.content.readany()
        assert running(cluster) == 1
        response.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/messages", {**CHAT, "max_tokens": 2000}),
        ("/v1/responses", {"model": "sim", "input": "hello"}),
    ],
)
async def test_leaving_a_stream_stops_the_engine(start_cluster, path, body):
    cluster = await start_cluster(SLOW)
    await leave_stream(cluster, path, body)
    await cluster.until(lambda: running(cluster) == 0, within_s=2)
    await cluster.assert_idle()
    record = last_record(cluster)
    assert (record["status"], record["error"]) == (200, "client left")
    assert "client_left" in record["reasons"]
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["cancelled"]
    # Nobody is put aside for a client's whim.
    assert await cluster.metric('tidemill_replica_failures_total{pool="decode"}') == 0


async def test_leaving_before_the_first_byte_stops_the_engine(start_cluster):
    cluster = await start_cluster(SLOW)
    asking = asyncio.create_task(cluster.chat())
    await cluster.until(lambda: running(cluster) == 1)
    asking.cancel()
    await cluster.until(lambda: running(cluster) == 0, within_s=2)
    await cluster.assert_idle()
    assert last_record(cluster)["status"] == 0


async def test_leaving_during_the_prefill_stops_the_prefill(start_cluster, given):
    cluster = await start_cluster(stand_ins={"prefill-0": given.engine_that(then="hang silently")})
    asking = asyncio.create_task(cluster.chat(given.long_prompt))
    prefill = cluster.engines["prefill-0"].port
    await cluster.until(lambda: prefill.open_requests == 1)
    asking.cancel()
    await cluster.until(lambda: prefill.open_requests == 0, within_s=2)
    await cluster.assert_idle()
    assert running(cluster) == 0


async def test_leaving_the_queue_makes_room(cluster):
    cluster.remove(*list(cluster.engines))
    asking = asyncio.create_task(cluster.chat())
    await cluster.until(lambda: cluster.core.queue.queued == 1)
    asking.cancel()
    await cluster.assert_idle()
    assert "client_left" in last_record(cluster)["reasons"]


async def test_leaving_while_another_computes_the_same_gives_the_place_up(start_cluster):
    cluster = await start_cluster({"pools": {"decode": {"engine": {"step_base_s": 0.03}}}})
    leader = asyncio.create_task(cluster.chat(temperature=0))
    await cluster.until(lambda: cluster.engine_requests == 1)
    waiter = asyncio.create_task(cluster.chat(temperature=0))
    await cluster.until(lambda: cluster.cache._flights.stats().waiters == 1)
    waiter.cancel()
    await cluster.until(lambda: cluster.cache._flights.stats().waiters == 0)
    assert (await leader).status == 200
    await cluster.assert_idle()


async def test_leaving_in_the_middle_of_the_body(cluster):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(cluster.url.rsplit(":", 1)[1]))
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
    writer.write(b"content-length: 1000\r\n\r\n{")
    await writer.drain()
    writer.close()
    await cluster.assert_idle()
    assert (await cluster.chat()).status == 200
    assert not await reader.read()


async def test_many_who_come_and_go_leave_nothing_behind(start_cluster, given):
    cluster = await start_cluster(
        {"pools": {"decode": {"engine": {"step_base_s": 0.005, "output_tokens": 40}}}}
    )

    async def come_and_go(number):
        text = given.long_prompt if number % 3 else "hello"
        with_stream = number % 2 == 0
        asking = asyncio.create_task(cluster.chat(f"{number} {text}", stream=with_stream, temperature=0))
        await asyncio.sleep(0.012 * (number % 10))
        asking.cancel()

    await asyncio.gather(*(come_and_go(number) for number in range(40)))
    await cluster.assert_idle()
    assert (await cluster.chat()).status == 200
    assert cluster.cache._flights.stats().waiters == 0


async def test_a_client_that_closes_after_the_last_byte_has_not_left(cluster):
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"{cluster.url}/v1/chat/completions",
            json={**CHAT, "temperature": 0},
            headers={"connection": "close"},
        ) as response,
    ):
        await response.read()
    await cluster.assert_idle()
    assert last_record(cluster)["error"] is None
    # The answer was stored although its client had gone by then.
    assert (await cluster.chat("hello", temperature=0)).headers["x-tidemill-cache"] == "exact"
