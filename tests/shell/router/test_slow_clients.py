"""Clients that send too much, too slowly, or take nothing: each is left after a bound, and nothing stays."""

import asyncio
import socket

import orjson
import pytest

CHAT = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "stream": True}


def event(size):
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": "x" * size}}]}) + b"\n\n"


async def test_headers_beyond_the_bound_are_a_431(start_cluster):
    cluster = await start_cluster({"gateway": {"header_bytes_max": 2048}})
    answer = await cluster.chat(headers={"x-filler": "x" * 2048})
    assert (answer.status, answer.json["error"]["code"]) == (431, "headers_too_large")
    assert (await cluster.chat(headers={"x-filler": "x" * 1024})).status == 200
    await cluster.assert_idle()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/feedback"])
async def test_a_body_that_does_not_come_is_a_408(start_cluster, path):
    cluster = await start_cluster({"gateway": {"body_timeout_s": 0.3}})
    host, port = cluster.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
    began_at_s = asyncio.get_running_loop().time()
    for byte in head.encode() + b"{":
        writer.write(bytes([byte]))
    answer = await asyncio.wait_for(reader.read(4096), 3.0)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in answer
    assert asyncio.get_running_loop().time() - began_at_s < 2.0
    assert await asyncio.wait_for(reader.read(4096), 3.0) == b""  # and the connection is closed
    writer.close()
    await cluster.assert_idle()


async def test_a_client_that_takes_nothing_is_left(start_cluster, given):
    stand_in = given.engine_that(event(8), *[event(1_000_000)] * 60, then="hang")
    cluster = await start_cluster(
        {"gateway": {"stalled_client_timeout_s": 0.3}, "semantic_cache": {"enabled": False}},
        stand_ins=dict.fromkeys(("decode-0", "decode-1", "prefill-0"), stand_in),
    )
    host, port = cluster.url.removeprefix("http://").split(":")
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.setblocking(False)  # noqa: FBT003 - the interface is socket's
    loop = asyncio.get_running_loop()
    await loop.sock_connect(lazy, (host, int(port)))
    body = orjson.dumps(CHAT)
    fields = f"host: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n\r\n"
    await loop.sock_sendall(lazy, head.encode() + body)
    await cluster.until(lambda: cluster.core.queue.in_flight == 1)
    await cluster.until(lambda: cluster.idle, within_s=5.0)
    lazy.close()


async def test_a_client_that_reads_slowly_but_reads_is_served(start_cluster, given):
    done = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    stand_in = given.engine_that(event(8), *[event(200_000)] * 10, done)
    cluster = await start_cluster(
        {"gateway": {"stalled_client_timeout_s": 0.4}, "semantic_cache": {"enabled": False}},
        stand_ins=dict.fromkeys(("decode-0", "decode-1", "prefill-0"), stand_in),
    )
    got = 0
    async with cluster.http.post(cluster.url + "/v1/chat/completions", json=CHAT) as response:
        while chunk := await response.content.read(100_000):
            got += len(chunk)
            await asyncio.sleep(0.05)
    assert got > 2_000_000
    await cluster.assert_idle()
