"""Brings an engine's answer to the client: bytes as they come, watched but not rewritten."""

from dataclasses import dataclass, field

import aiohttp
import orjson

from deployments.router.core import RouterCore
from deployments.router.fleet_view import Dispatch
from deployments.router.requests import ParsedRequest, counts_usage
from deployments.router.responder import Responder
from deployments.router.stream import (
    Annotate,
    EventStream,
    Finish,
    finish_of,
    has_begun,
    is_error,
    tokens_in,
    usage_of,
)
from deployments.router.token_gaps import TokenGaps
from deployments.router.upstream import ReplicaError

_USAGE_PARSE_BYTES_MAX = 4 * 1024 * 1024
_PASSED_ON = ("retry-after",)


@dataclass(slots=True)
class Relayed:
    """What was seen in passing."""

    first_token_at_s: float | None = None
    ended_at_s: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int = 0
    finish: Finish = Finish.WHOLE
    gaps: TokenGaps = field(default_factory=TokenGaps)
    content_type: str = ""
    cacheable_body: bytes | None = None
    """The complete answer, if it is one to keep."""


class Relay:
    """One answer on its way."""

    def __init__(
        self,
        core: RouterCore,
        request: ParsedRequest,
        responder: Responder,
        dispatch: Dispatch,
        *,
        annotate: Annotate | None = None,
    ) -> None:
        """Prepare.

        Args:
            core: the router's services.
            request: what the client asked.
            responder: the client's side.
            dispatch: the request's weight on the replica.
            annotate: adds to the answer's usage; None leaves every byte as it is.
        """
        self._core = core
        self._request = request
        self._responder = responder
        self._dispatch = dispatch
        self._annotate = annotate
        self._copy: list[bytes] | None = None
        self._copied_bytes = 0
        self._events: EventStream | None = None
        self.relayed = Relayed()

    def tokens(self) -> int:
        """Output tokens that have come so far."""
        if self.relayed.output_tokens:
            return self.relayed.output_tokens
        return 0 if self._events is None else self._events.events

    async def run(self, response: aiohttp.ClientResponse, *, keep_for_cache: bool) -> None:
        """Relay a response to its end.

        Raises:
            ReplicaError: the engine failed; nothing was sent if the responder has not started.
        """
        content_type = response.headers.get("content-type", "application/json")
        self.relayed.content_type = content_type
        if response.status == 200 and content_type.startswith("text/event-stream"):
            await self._stream(response, keep_for_cache=keep_for_cache)
        else:
            await self._unary(response, keep_for_cache=keep_for_cache)
        self.relayed.ended_at_s = self._core.now_s()

    async def _unary(self, response: aiohttp.ClientResponse, *, keep_for_cache: bool) -> None:
        body = await self._core.upstream.read(response)
        self._dispatch.first_token()
        self.relayed.first_token_at_s = self._core.now_s()
        headers = {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
        self._responder.headers |= headers
        if response.status == 200 and len(body) <= _USAGE_PARSE_BYTES_MAX:
            try:
                answer = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise ReplicaError(f"answer is not JSON: {error}", unreachable=False) from error
            usage = usage_of(answer)
            self._count(usage)
            self.relayed.finish = finish_of(answer)
            if self._annotate is not None and usage is not None:
                self._annotate(usage)
                body = orjson.dumps(answer)
        await self._responder.whole(response.status, self.relayed.content_type, body)
        if keep_for_cache and response.status == 200 and self._fits(len(body)):
            self.relayed.cacheable_body = body

    async def _stream(self, response: aiohttp.ClientResponse, *, keep_for_cache: bool) -> None:
        asked_for_usage = counts_usage(self._request) and not self._request.wants_usage
        drop = asked_for_usage and self._annotate is None
        events = EventStream(self._request.surface, drop_usage=drop, annotate=self._annotate)
        self._events = events
        self._copy = [] if keep_for_cache else None
        held = b""
        gaps = self.relayed.gaps
        try:
            async for chunk in response.content.iter_any():
                out = events.feed(chunk)
                gaps.piece(chunk, self._core.now_s())
                if not self._responder.started:
                    held += out
                    if not has_begun(held):
                        continue
                    out, held = held, b""
                    await self._begin(out)
                if out:
                    await self._pass_on(out)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ReplicaError(f"{type(error).__name__}: {error}", unreachable=True) from error
        await self._finish(events, held + events.rest())

    async def _finish(self, events: EventStream, rest: bytes) -> None:
        self._count(events.usage())
        self.relayed.finish = events.finish()
        if not self.relayed.output_tokens:
            self.relayed.output_tokens = events.events
        if not events.ended_well():
            raise ReplicaError("the stream ended before the answer did", unreachable=False)
        if not self._responder.started:
            await self._begin(rest)
        self._keep(rest)
        await self._responder.end(rest)
        if self._copy is not None:
            self.relayed.cacheable_body = b"".join(self._copy)

    async def _begin(self, first: bytes) -> None:
        if is_error(first):
            raise ReplicaError(first[:500].decode("utf-8", "replace"), unreachable=False)
        self.relayed.first_token_at_s = self._core.now_s()
        self._dispatch.first_token()
        await self._responder.start(
            200, {"content-type": self.relayed.content_type, "cache-control": "no-cache"}
        )

    async def _pass_on(self, out: bytes) -> None:
        await self._responder.chunk(out)
        self._keep(out)

    def _keep(self, out: bytes) -> None:
        if self._copy is None:
            return
        self._copy.append(out)
        self._copied_bytes += len(out)
        if not self._fits(self._copied_bytes):
            self._copy = None

    def _count(self, usage: dict[str, object] | None) -> None:
        prompt, cached, output = tokens_in(usage)
        self.relayed.prompt_tokens = prompt
        self.relayed.cached_tokens = cached
        self.relayed.output_tokens = output or 0

    def _fits(self, size_bytes: int) -> bool:
        return size_bytes <= self._core.config.semantic_cache.exact.entry_bytes_max
