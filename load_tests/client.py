"""A streaming client for OpenAI's HTTP surface that notes when every token came.

It speaks HTTP over bare asyncio protocols: on a machine whose cores it shares with the servers under test,
a comfortable client would be the slowest part of what it measures. Loopback only, so that a mistyped address
loads nobody else's server.
"""

import asyncio
import ipaddress
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

from cluster.entities.timeline import Timeline

OK = "ok"


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: a loopback address and the path before `/v1`."""

    host: str
    port: int
    prefix: str

    @property
    def url(self) -> str:
        """The base URL, without `/v1`."""
        return f"http://{self.host}:{self.port}{self.prefix}"


def parse_target(url: str) -> Target:
    """Read a base URL, with or without `/v1` at its end.

    Raises:
        ValueError: it is not plain HTTP to a loopback address.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or not parts.port:
        raise ValueError(f"{url!r}: expected http://HOST:PORT, with the port given")
    if host != "localhost" and not _is_loopback(host):
        raise ValueError(f"{url!r}: load is only sent to this machine (127.0.0.1, ::1, localhost)")
    return Target(host, parts.port, parts.path.rstrip("/").removesuffix("/v1"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request."""

    kind: str
    """`ok`, or how it failed: `connect`, `timeout`, `cut` (the stream ended early), `http_429`, …"""
    timeline: Timeline
    itl_s: tuple[float, ...] = ()
    """Gaps between the arrivals of tokens; tokens that came in one read have a gap of zero."""
    prompt_tokens: int = 0
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether a whole answer came."""
        return self.kind == OK


@dataclass(slots=True)
class _Reading:
    """One answer while it comes in."""

    streamed: bool
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    tokens_at_s: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    usage: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    """Whether the answer said itself that it is complete."""
    failed: bool = False

    def take(self, part: bytes, now_s: float) -> None:
        self.body += part
        if not self.streamed or self.status != 200:
            return
        *events, rest = bytes(self.body).split(b"\n\n")
        self.body = bytearray(rest)
        for event in events:
            self._event(event, now_s)

    def _event(self, event: bytes, now_s: float) -> None:
        if not event.startswith(b"data: "):
            return
        if event == b"data: [DONE]":
            self.done = True
            return
        data = orjson.loads(event[6:])
        self.usage = data.get("usage") or self.usage
        self.failed = self.failed or "error" in data
        for choice in data.get("choices", ()):
            text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
            if text:
                self.tokens_at_s.append(now_s)
                self.texts.append(text)

    def finish(self, now_s: float) -> None:
        """The HTTP message is complete."""
        if self.streamed or self.status != 200:
            return
        data = orjson.loads(self.body)
        self.usage, self.done = data.get("usage") or {}, True
        choice = data["choices"][0]
        self.texts.append(choice["message"]["content"] if "message" in choice else choice["text"])
        self.tokens_at_s.append(now_s)


class _Connection(asyncio.Protocol):
    """A kept-alive connection with at most one request on it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reading: _Reading | None = None
        self._ended: asyncio.Future[None] | None = None
        self._read_at_s = 0.0
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP gives nothing else
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._end(exc or ConnectionResetError("closed by the server"))

    def data_received(self, data: bytes) -> None:
        self._read_at_s = self._loop.time()
        try:
            self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001 - whatever cannot be read makes the answer unusable
            self.close()
            self._end(error)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not None:
            self._reading.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._reading is not None:
            self._reading.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._reading is not None:
            self._reading.take(body, self._read_at_s)

    def on_message_complete(self) -> None:
        if self._reading is not None:
            self._reading.finish(self._read_at_s)
        if not self._parser.should_keep_alive():
            self.close()
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._ended is None or self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    async def exchange(self, request: bytes, reading: _Reading) -> None:
        """Send a request and read its answer to the end."""
        self._parser = httptools.HttpResponseParser(self)
        self._reading, self._ended = reading, self._loop.create_future()
        if self._transport is None or not self.usable:
            raise ConnectionResetError("closed by the server")
        self._transport.write(request)
        await self._ended

    def close(self) -> None:
        """Drop the connection, and with it a request that is still on it."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()


class StreamClient:
    """Sends requests to one target and keeps their connections.

    Args:
        target: where to.
        timeout_s: a request that takes longer counts as `timeout`.
        api_key: sent as a bearer token if given.
    """

    def __init__(self, target: Target, *, timeout_s: float = 120.0, api_key: str | None = None) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._idle: list[_Connection] = []
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._headers = f"Host: {target.host}:{target.port}\r\nContent-Type: application/json\r\n{key}"

    async def send(
        self, body: dict[str, Any], *, path: str = "/v1/chat/completions", arrived_at_s: float | None = None
    ) -> Outcome:
        """Send one request and wait for its whole answer; failures are outcomes, not exceptions.

        Args:
            body: the JSON body; `stream: true` asks for a stream, and usage is then asked for too.
            path: what follows the target's prefix.
            arrived_at_s: loop time at which the request was due, if that was earlier than now.
        """
        loop = asyncio.get_running_loop()
        streamed = bool(body.get("stream"))
        content = orjson.dumps({**body, "stream_options": {"include_usage": True}} if streamed else body)
        start = f"POST {self._target.prefix}{path} HTTP/1.1\r\n{self._headers}"
        head = f"{start}Content-Length: {len(content)}\r\n\r\n"
        reading = _Reading(streamed)
        sent_at_s = loop.time()
        connection: _Connection | None = None
        kind = None
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connection()
                sent_at_s = loop.time()
                await connection.exchange(head.encode() + content, reading)
        except TimeoutError:
            kind = "timeout"
        except (OSError, ValueError, KeyError, TypeError, httptools.HttpParserError):
            kind = "connect" if connection is None else "cut"
        finally:
            self._put_back(connection, whole=kind is None)
        arrived = sent_at_s if arrived_at_s is None else arrived_at_s
        return _outcome(reading, kind, arrived_at_s=arrived, sent_at_s=sent_at_s, ended_at_s=loop.time())

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        target = self._target
        _, made = await asyncio.get_running_loop().create_connection(_Connection, target.host, target.port)
        return made

    def _put_back(self, connection: _Connection | None, *, whole: bool) -> None:
        if connection is None:
            return
        if whole and connection.usable:
            self._idle.append(connection)
        else:
            connection.close()


def _outcome(
    reading: _Reading, kind: str | None, *, arrived_at_s: float, sent_at_s: float, ended_at_s: float
) -> Outcome:
    at_s = reading.tokens_at_s
    if kind is None and reading.status != 200:
        kind = f"http_{reading.status}"
    elif kind is None and (reading.failed or not reading.done):
        kind = "error_event" if reading.failed else "cut"
    return Outcome(
        kind=kind or OK,
        timeline=Timeline(
            arrived_at_s=arrived_at_s,
            dispatched_at_s=sent_at_s,
            first_token_at_s=at_s[0] if at_s else None,
            ended_at_s=ended_at_s,
            # A server may put several tokens into one event; what it bills is the count.
            output_tokens=int(reading.usage.get("completion_tokens") or len(at_s)),
        ),
        itl_s=tuple(later - earlier for earlier, later in itertools.pairwise(at_s)),
        prompt_tokens=int(reading.usage.get("prompt_tokens") or 0),
        text="".join(reading.texts),
        headers=reading.headers,
    )
