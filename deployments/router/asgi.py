"""The router's HTTP surface: a plain ASGI application.

No framework between the socket and the relay: every token of every stream passes here.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable

from cluster.entities.workload import Surface
from deployments.messages import REQUEST_ID
from deployments.router.callers import admitted, check_model, identify, tenant_name, with_deadline
from deployments.router.core import RouterCore
from deployments.router.generation.generation import Generation
from deployments.router.guardrails.chain import Guarded
from deployments.router.pages import feedback, openapi
from deployments.router.pages.adapters import VLLM_PATHS
from deployments.router.pages.admin import Admin
from deployments.router.pages.status_page import EVENTS_PATH, StatusPage
from deployments.router.passthrough import Passthrough
from deployments.router.visit import Visit
from deployments.router.wire.cors import Cors
from deployments.router.wire.errors import (
    ApiError,
    body_too_large,
    body_too_slow,
    headers_too_large,
    wrong_content_encoding,
    wrong_media_type,
)
from deployments.router.wire.requests import ParsedRequest, parse
from deployments.router.wire.responder import Receive, Responder, Scope, Send

logger = logging.getLogger("tidemill.router")

_SURFACES = {surface.value: surface for surface in Surface}
_MODELS = "/v1/models"
_WITH_SLASH = {path + "/": path for path in (*_SURFACES, feedback.PATH, _MODELS)}
"""Addresses with a slash too many, as some clients put together."""


NAMED_BY_SERVE = "tidemill.named_by_serve"
"""In the scope of a request whose answer gets its `x-request-id` from Serve; two would be joined."""


class RouterApp:
    """Routes requests by path. `core` must be started before the first one."""

    def __init__(self, core: RouterCore) -> None:
        self._core = core
        admin = Admin(core)
        passthrough = Passthrough(core)
        self._passthrough = passthrough
        self._admin = admin
        self._gets: dict[str, Callable[[Responder], Awaitable[None]]] = {
            "/health": admin.health,
            "/ready": admin.ready,
            "/metrics": admin.metrics,
            openapi.PATH: lambda responder: openapi.answer(core, responder),
        }
        self._cors = Cors.of(core.config.gateway.cors)
        self._status_page: StatusPage | None = None
        if core.config.status_page.enabled:
            self._status_page = StatusPage(core)
            self._gets["/"] = self._status_page.page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        surface = _SURFACES.get(scope["path"])
        responder = self._responder(send, surface)
        try:
            await self._route(scope, receive, responder, surface)
        except ApiError as error:
            self._core.metrics.turned_away(error.reason)
            self._core.request_log.refused(
                at_wall_s=self._core.wall_s(), surface=surface, status=error.status, code=error.code
            )
            await responder.error(error, surface)
        except ClientLeftError:
            pass
        except Exception:
            logger.exception("request failed")
            crash = ApiError(status=500, message="Internal error in the router.", code="internal_error")
            await responder.error(crash, surface)

    def _responder(self, send: Send, surface: Surface | None) -> Responder:
        chain = self._core.guardrails
        if chain is None or surface is None or not surface.generates:
            return Responder(send)
        return chain.responder(send, surface)

    async def _route(
        self, scope: Scope, receive: Receive, responder: Responder, surface: Surface | None
    ) -> None:
        path, method = scope["path"], scope["method"]
        headers = _headers(scope, self._core.config.gateway.header_bytes_max)
        if not scope.get(NAMED_BY_SERVE):
            responder.headers[REQUEST_ID] = headers.get(REQUEST_ID) or uuid.uuid4().hex
        if self._cors is not None and await self._cors.answered(path, method, headers, responder):
            return
        if surface is not None:
            if method != "POST":
                raise _wrong_method(path, "POST")
            await self._post(surface, headers, receive, responder)
        else:
            await self._route_others(scope, headers, receive, responder)

    async def _route_others(
        self, scope: Scope, headers: dict[str, str], receive: Receive, responder: Responder
    ) -> None:
        """What is no surface."""
        path, method = scope["path"], scope["method"]
        if path == feedback.PATH:
            if method != "POST":
                raise _wrong_method(path, "POST")
            caller = identify(self._core, headers)
            await feedback.answer(self._core, await self._json_body(headers, receive), responder, caller)
        elif path in _WITH_SLASH:
            # As vLLM does, and relative: a proxy in front applies its rules to the address that is meant.
            responder.headers["location"] = _WITH_SLASH[path]
            await responder.whole(307, "application/json", b"")
        elif path in self._gets or path == _MODELS or path.startswith(_MODELS + "/"):
            if method not in ("GET", "HEAD"):
                raise _wrong_method(path, "GET")
            await self._get(path, headers, responder)
        elif path == EVENTS_PATH and self._status_page is not None:
            if method != "GET":
                raise _wrong_method(path, "GET")
            watching = self._status_page.events(headers, responder)
            await _unless_client_leaves(receive, responder, watching)
        elif path.startswith("/admin/") or path in VLLM_PATHS:
            self._admin.check_key(headers)
            body = await self._body(headers, receive) if method == "POST" else b""
            await self._admin.handle(method, path, scope.get("query_string", b""), body, responder)
        else:
            message = (
                f"There is no {method} {path} here. The surfaces are: {', '.join(_SURFACES)}, "
                f"{feedback.PATH}, /v1/models."
            )
            raise ApiError(status=404, message=message, code="not_found")

    async def _get(self, path: str, headers: dict[str, str], responder: Responder) -> None:
        if path in self._gets:
            if path == "/metrics" and self._core.tenants is not None:
                self._admin.check_key(headers)  # series name tenants; Prometheus has ports of its own
            await self._gets[path](responder)
        elif path == _MODELS:
            await self._admin.models(responder, identify(self._core, headers))
        else:
            caller = identify(self._core, headers)
            await self._admin.model(responder, path.removeprefix(_MODELS + "/"), caller)

    async def _post(
        self, surface: Surface, headers: dict[str, str], receive: Receive, responder: Responder
    ) -> None:
        arrived_at_s = self._core.now_s()
        caller = identify(self._core, headers)
        tenant = tenant_name(caller, headers)
        if surface.generates:
            self._core.queue.check(tenant)
        raw = await self._json_body(headers, receive)
        if surface is Surface.EMBEDDINGS:
            check_model(self._core, caller, self._core.config.semantic_cache.encoder.model)
            async with admitted(self._core, caller, responder):
                await _unless_client_leaves(receive, responder, self._passthrough.embeddings(raw, responder))
            return
        request = self._parsed(raw, surface, headers)
        check_model(self._core, caller, request.model)
        if not surface.generates:
            async with admitted(self._core, caller, responder):
                work = self._passthrough.to_any_replica(request, tenant, responder)
                await _unless_client_leaves(receive, responder, work)
            return
        request = with_deadline(request, headers, arrived_at_s)
        guarded = await self._guard(request, headers)
        generation = Generation(
            self._core,
            request if guarded is None else guarded.request,
            responder,
            headers=headers,
            tenant=tenant,
            arrived_at_s=arrived_at_s,
            visit=Visit(self._core, caller, guarded),
        )
        try:
            work = self._generate(generation, responder, surface)
            stall_s = self._core.config.gateway.stalled_client_timeout_s
            await _unless_client_leaves(receive, responder, work, stall_s=stall_s)
        finally:
            generation.finish()

    def _parsed(self, raw: bytes, surface: Surface, headers: dict[str, str]) -> ParsedRequest:
        adapters = self._core.adapters
        return parse(
            raw,
            surface,
            self._core.config,
            session=headers.get("x-tidemill-session", ""),
            adapters=(lambda _: None) if adapters is None else adapters.asked,
        )

    async def _guard(self, request: ParsedRequest, headers: dict[str, str]) -> Guarded | None:
        chain = self._core.guardrails
        if chain is None:
            return None
        return await chain.request(request, lambda raw: self._parsed(raw, request.surface, headers))

    async def _generate(self, generation: Generation, responder: Responder, surface: Surface) -> None:
        try:
            await generation.run()
        except ApiError as error:
            # Answered here, so that the record has the status that the client got.
            self._core.metrics.turned_away(error.reason)
            await responder.error(error, surface)

    async def _json_body(self, headers: dict[str, str], receive: Receive) -> bytes:
        """The body of what must be said to be JSON, as to OpenAI and vLLM.

        Browsers let any page send other types anywhere, a gateway on this machine included; for this one they
        ask first, and nobody answers them.
        """
        kind = headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise wrong_media_type(kind)
        return await self._body(headers, receive)

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        coding = headers.get("content-encoding", "identity")
        if coding.strip().lower() != "identity":
            raise wrong_content_encoding(coding)
        limit = self._core.config.gateway.body_bytes_max
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise body_too_large(limit)
        limit_s = self._core.config.gateway.body_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._whole_body(receive, limit)
        except TimeoutError:
            raise body_too_slow(limit_s) from None

    async def _whole_body(self, receive: Receive, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise body_too_large(limit)
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)


class ClientLeftError(Exception):
    """The client closed the connection; there is nobody to answer."""


async def _unless_client_leaves(
    receive: Receive, responder: Responder, work: Awaitable[None], *, stall_s: float | None = None
) -> None:
    """Do the work; cancel it as soon as the client is gone, so that the engine stops computing.

    A client that closes after the last byte has what it wanted; what is left to do then is done. One that
    takes nothing of its answer for `stall_s` is as good as gone.

    Raises:
        ClientLeftError: it was gone too early; the work has been cancelled and has cleaned up.
    """
    # A task of its own: what it waits for wakes it alone, and not the servers and wrappers above it as well.
    task = asyncio.ensure_future(work)
    watch = _Watch(task, receive, responder, stall_s)
    try:
        await task
    except (asyncio.CancelledError, Exception):  # whatever cleaning up comes to, there is nobody to tell
        if watch.client_left:
            raise ClientLeftError from None
        raise
    finally:
        watch.end()


class _Watch:
    """Cancels a task when the client that it works for has left."""

    def __init__(
        self, task: asyncio.Future[None], receive: Receive, responder: Responder, stall_s: float | None
    ) -> None:
        self._task = task
        self._responder = responder
        self._stall_s = stall_s
        self._parts_seen = -1
        self.client_left = False
        self._receiving = asyncio.ensure_future(_left(receive))
        self._receiving.add_done_callback(self._gone)
        self._timer: asyncio.TimerHandle | None = None
        if stall_s is not None:
            self._timer = asyncio.get_running_loop().call_later(stall_s, self._look)

    def end(self) -> None:
        """The work is over."""
        self._receiving.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _gone(self, receiving: asyncio.Future[None]) -> None:
        if not receiving.cancelled():
            receiving.exception()  # a connection that broke is a client that left
        self._leave()

    def _leave(self) -> None:
        if not (self.client_left or self._task.done() or self._responder.ended):
            self.client_left = True
            self._task.cancel()

    def _look(self) -> None:
        responder, stall_s = self._responder, self._stall_s
        if responder.parts_sent == self._parts_seen != responder.parts_taken:
            self._leave()
        elif stall_s is not None:
            self._parts_seen = responder.parts_sent
            self._timer = asyncio.get_running_loop().call_later(stall_s, self._look)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(scope: Scope, bytes_max: int) -> dict[str, str]:
    if sum([len(name) + len(value) for name, value in scope["headers"]]) > bytes_max:
        raise headers_too_large(bytes_max)
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _wrong_method(path: str, right: str) -> ApiError:
    message = f"{path} takes {right}."
    return ApiError(status=405, message=message, code="method_not_allowed", headers={"allow": right})
