"""A port of ours must not wait for the receiver's acknowledgement between an answer's head and its body."""

import time

import aiohttp

from deployments.http_port import HttpPort

REQUESTS = 12
ACKNOWLEDGEMENT_DELAY_S = 0.04
"""What Linux waits before it acknowledges; Nagle's algorithm holds a second small write back so long."""


async def app(scope, receive, send):
    """Answers in two writes, head and body, as every ASGI server does."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_small_answers_on_a_kept_connection_do_not_wait_for_acknowledgements():
    port = HttpPort(app, host="127.0.0.1")
    await port.start()
    try:
        async with aiohttp.ClientSession() as http:
            started_s = time.monotonic()
            for _ in range(REQUESTS):
                async with http.get(port.url) as response:
                    assert await response.read() == b"ok"
            took_s = time.monotonic() - started_s
    finally:
        await port.stop(grace_s=0.2)
    assert took_s < REQUESTS * ACKNOWLEDGEMENT_DELAY_S / 2
