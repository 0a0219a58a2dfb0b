"""The pager as a layer around the engine's ASGI application.

A request for `BASE:ADAPTER` passes when its adapter is in a slot and is counted until its answer ends; others
pass at once. The layer also serves the pager's own pages and adds its metrics to the engine's.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from cluster.entities.workload import Surface
from deployments.adapter_pager.entries import AdapterRefusedError, AdapterRequest, Visit
from deployments.adapter_pager.pager import AdapterPager
from deployments.adapter_pager.pages import PagerPages
from deployments.messages import (
    ADAPTER_CONTEXT,
    ADAPTER_EXPLORED,
    ADAPTER_OPEN,
    ADAPTER_REFUSED,
    ADAPTER_SERVED,
    ADAPTER_TIER,
    ADAPTER_WAIT,
    REQUEST_ID,
    vector_from_header,
)

Json = dict[str, Any]
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_TOKENS_FIELDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_TOKENS_DEFAULT = 256
_BODY_BYTES_MAX = 256 * 1024 * 1024
_OTHER_SURFACES = frozenset({Surface.TOKENIZE, Surface.DETOKENIZE, Surface.COUNT_TOKENS})
"""They name a model and need no adapter: tokens are the base model's."""


class AdapterLayer:
    """An ASGI application."""

    def __init__(self, app: Any, pager: AdapterPager, *, base: str) -> None:
        """Wrap.

        Args:
            app: the engine's application.
            pager: beside the same engine.
            base: the served model.
        """
        self._app = app
        self._pager = pager
        self._base = base
        self._prefix = f"{base}:"
        self._mark = f'"{base}:'.encode()
        self._pages = PagerPages(pager)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"].startswith("/tidemill/adapters"):
            status, headers, body = await self._pages.answer(scope, await _read(receive) or b"")
            await _respond(send, status, body, headers)
        elif scope["method"] == "GET" and scope["path"] == "/metrics":
            await self._metrics(scope, receive, send)
        elif scope["method"] == "POST":
            await self._post(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await _read(receive)
        if raw is None:
            return
        body = self._naming_an_adapter(raw)
        if body is None:
            await self._app(scope, _replayed(raw, receive), send)
        elif scope["path"] in _OTHER_SURFACES:
            await self._pass(scope, receive, send, body, model=self._base)
        else:
            await self._with_adapter(scope, receive, send, raw, body)

    def _naming_an_adapter(self, raw: bytes) -> Json | None:
        """The body, if its model is an adapter of this base model."""
        if self._mark not in raw:
            return None
        with contextlib.suppress(orjson.JSONDecodeError):
            body = orjson.loads(raw)
            if isinstance(body, dict) and str(body.get("model", "")).startswith(self._prefix):
                return body
        return None

    async def _with_adapter(self, scope: Scope, receive: Receive, send: Send, raw: bytes, body: Json) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = _request_of(str(body["model"]).removeprefix(self._prefix), body, headers)
        gone = asyncio.ensure_future(receive())
        try:
            visit = await self._admitted(request, headers.get(REQUEST_ID, ""), gone)
            if visit is None:
                return
            try:
                told = _telling(send, visit)
                model = visit.model or self._base
                if model == body["model"]:
                    await self._app(scope, _replayed(raw, receive, gone), told)
                else:
                    await self._pass(scope, receive, told, body, model=model, pending=gone)
            finally:
                self._pager.leave(visit.running)
        except AdapterRefusedError as error:
            await _refuse(send, scope["path"], error)
        finally:
            gone.cancel()

    async def _admitted(
        self, request: AdapterRequest, request_id: str, gone: "asyncio.Future[Message]"
    ) -> Visit | None:
        """The visit, when it may begin; None if the client has left meanwhile."""
        entering = asyncio.create_task(self._pager.enter(request, request_id=request_id))
        try:
            waited: set[asyncio.Future[Any]] = {entering, gone}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._call_off(entering)
            raise
        if entering.done():
            return entering.result()
        if gone.result()["type"] == "http.disconnect":
            await self._call_off(entering)
            return None
        return await entering

    async def _call_off(self, entering: "asyncio.Task[Visit]") -> None:
        entering.cancel()
        with contextlib.suppress(asyncio.CancelledError, AdapterRefusedError):
            self._pager.leave((await entering).running)

    async def _pass(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        body: Json,
        *,
        model: str,
        pending: "asyncio.Future[Message] | None" = None,
    ) -> None:
        """Pass a request on under another model's name."""
        raw = orjson.dumps({**body, "model": model})
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(raw)).encode()))
        await self._app({**scope, "headers": headers}, _replayed(raw, receive, pending), send)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The engine's text and ours. Without Accept the engine writes the form that has no end mark."""
        start: Message = {}
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        headers = [
            (name, value) for name, value in scope["headers"] if name not in {b"accept", b"accept-encoding"}
        ]
        await self._app({**scope, "headers": headers}, receive, collect)
        if start.get("status") == 200:
            parts.append(self._pager.exported.text(self._pager.shelf))
        kept = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        await _respond(send, start["status"], b"".join(parts), kept)


def _request_of(adapter: str, body: Json, headers: dict[str, str]) -> AdapterRequest:
    x: tuple[float, ...] = ()
    with contextlib.suppress(ValueError):
        x = vector_from_header(headers.get(ADAPTER_CONTEXT, ""))
    bounds = [body[name] for name in _TOKENS_FIELDS if isinstance(body.get(name), int)]
    return AdapterRequest(
        adapter=adapter,
        x=x,
        open=headers.get(ADAPTER_OPEN) == "1",
        explored=headers.get(ADAPTER_EXPLORED) == "1",
        tokens_max=bounds[0] if bounds else _TOKENS_DEFAULT,
    )


def _telling(send: Send, visit: Visit) -> Send:
    """Say in the answer's head who answers, and count its parts."""
    told = [
        (ADAPTER_SERVED.encode(), visit.adapter.encode()),
        (ADAPTER_TIER.encode(), visit.tier.value.encode()),
        (ADAPTER_WAIT.encode(), f"{visit.waited_s:.4f}".encode()),
    ]
    running = visit.running

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *told]}
        elif running is not None and message.get("more_body"):
            running.tokens += 1
        await send(message)

    return tell


async def _read(receive: Receive) -> bytes | None:
    """The request's body; None if the client left or sends without end."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _BODY_BYTES_MAX:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _replayed(raw: bytes, receive: Receive, pending: "asyncio.Future[Message] | None" = None) -> Receive:
    """Give the body that was read, then what was already waited for, then go on."""
    queue: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def replay() -> Message:
        nonlocal pending
        if queue:
            return queue.pop()
        if pending is not None:
            message = await asyncio.shield(pending)
            pending = None
            return message
        return await receive()

    return replay


async def _refuse(send: Send, path: str, error: AdapterRefusedError) -> None:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    if path == Surface.MESSAGES:
        body: Json = {"type": "error", "error": {"type": "api_error", "message": str(error)}}
    else:
        body = {"error": {"message": str(error), "type": kind, "param": "model", "code": error.code}}
    headers = [(b"content-type", b"application/json"), (ADAPTER_REFUSED.encode(), error.code.encode())]
    if error.retry_after_s:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    await _respond(send, error.status, orjson.dumps(body), headers)


async def _respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
