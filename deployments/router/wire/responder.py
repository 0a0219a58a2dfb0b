"""The client's side of a request: ASGI `send` with memory of what has gone out."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from cluster.entities.reasons import Reason
from cluster.entities.workload import Surface
from deployments.router.wire.errors import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


_NAMED_EVENTS = frozenset({Surface.MESSAGES, Surface.RESPONSES})


class Responder:
    """Sends one response."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.headers: dict[str, str] = {}
        """Headers that every response to this request carries."""
        self.ended = False
        """Whether the last byte is out; a client that closes then has not left early."""
        self.status = 0
        """What the client got; 0 before anything was sent."""
        self.reasons: list[Reason] = []
        """What was done to what was sent."""
        self.parts_sent = 0
        self.parts_taken = 0
        """Fewer than `parts_sent` while the client does not take what is sent."""

    @property
    def started(self) -> bool:
        """Whether the status line is out, so that the request cannot start over."""
        return self.status != 0

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line."""
        self.status = status
        merged = {**headers, **self.headers}
        raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in merged.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def chunk(self, body: bytes) -> None:
        """Send a part of the body."""
        self.parts_sent += 1
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self.parts_taken += 1

    async def end(self, body: bytes = b"") -> None:
        """Send the last part."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def whole(self, status: int, content_type: str, body: bytes) -> None:
        """Send a response in one piece."""
        await self.start(status, {"content-type": content_type, "content-length": str(len(body))})
        await self.end(body)

    async def json(self, status: int, content: Any) -> None:
        """Send JSON."""
        await self.whole(status, "application/json", orjson.dumps(content))

    async def error(self, error: ApiError, surface: Surface | None) -> None:
        """Send an error in the surface's shape; inside a stream that has begun, as its last event."""
        body = orjson.dumps(error.body(surface))
        if self.started:
            name = b"event: error\n" if surface in _NAMED_EVENTS else b""
            await self.end(name + b"data: " + body + b"\n\n")
            return
        self.headers.update(error.headers)
        await self.whole(error.status, "application/json", body)
