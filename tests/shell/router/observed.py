"""What tests of the router see: whole responses, and how often an application was asked."""

from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    headers: Any
    content: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.content)

    @property
    def events(self) -> list[Any]:
        """The stream's data lines as JSON, `[DONE]` as text."""
        lines = [line[6:] for line in self.content.split(b"\n") if line.startswith(b"data: ")]
        return [line.decode() if line == b"[DONE]" else orjson.loads(line) for line in lines]


class CountingApp:
    """An ASGI application that answers lifespan itself and counts the requests by path."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.requests: dict[str, int] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.requests[scope["path"]] = self.requests.get(scope["path"], 0) + 1
        await self.app(scope, receive, send)

    @property
    def total(self) -> int:
        """All requests so far."""
        return sum(self.requests.values())


class BreaksOnce:
    """An application whose first stream ends after some parts; it notes who was asked for what."""

    def __init__(self, app, asked):
        self.app = app
        self.asked = asked

    async def __call__(self, scope, receive, send):
        parts = 0

        async def noted():
            message = await receive()
            if scope["path"].startswith("/v1/") and message.get("body"):
                self.asked.append(orjson.loads(message["body"])["model"])
            return message

        async def until_broken(message):
            nonlocal parts
            parts += message["type"] == "http.response.body"
            if parts > 5 and len(self.asked) == 1:
                raise ConnectionResetError("broken on purpose")
            await send(message)

        await self.app(scope, noted, until_broken)
