"""The HTTP that the simulated engine needs, straight on ASGI: a framework would cost more than a token."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.entities.workload import Surface
from deployments.engine.simulated_requests import RequestError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
_REQUEST_ID_CHARS_MAX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back to the client: a body or a stream."""

    status: int = 200
    content_type: bytes = JSON
    body: bytes = b""
    stream: AsyncGenerator[bytes, None] | None = None
    release: Callable[[], None] | None = None
    """To be called when nobody reads the stream any more, also if nobody ever did."""


async def read_body(receive: Receive, bytes_max: int) -> bytes | None:
    """The request's body; None if it is too large."""
    raw = b""
    while True:
        message = await receive()
        part: bytes = message.get("body", b"")
        raw += part
        if len(raw) > bytes_max:
            return None
        if not message.get("more_body"):
            return raw


async def cancel_on_disconnect(receive: Receive, request: asyncio.Task[Any]) -> None:
    """Wait until the client has left, then end the task that works for it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    request.cancel()


async def send_answer(answer: Answer, send: Send) -> None:
    """Send a body, or a stream until it ends or the reader leaves."""
    headers = [(b"content-type", answer.content_type)]
    if answer.status == 503:
        headers.append((b"retry-after", b"1"))
    if answer.stream is None:
        headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
        return
    try:
        async with contextlib.aclosing(answer.stream) as chunks:
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        # The generator's own clean-up does not run if it was cancelled before its first step.
        if answer.release is not None:
            answer.release()


def request_id_of(scope: Scope) -> str:
    """The id under which the client asked; empty if it gave none."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return str(value[:_REQUEST_ID_CHARS_MAX].decode("latin-1"))
    return ""


def error_answer(path: str, error: RequestError) -> Answer:
    """An error in the body that vLLM gives it on this surface."""
    message = str(error)
    if path.startswith(Surface.MESSAGES):
        body: dict[str, Any] = {"type": "error", "error": {"type": error.kind, "message": message}}
    else:
        body = {"error": {"message": message, "type": error.kind, "param": error.param, "code": error.status}}
    return Answer(status=error.status, body=orjson.dumps(body))
