"""Brings an engine's answer to the client: bytes as they come, watched but not rewritten."""

from dataclasses import dataclass, field

import aiohttp
import orjson

from cluster.config.models import ModelConfig
from cluster.policy.continuation import Seam
from deployments.router.core import RouterCore
from deployments.router.fleet.view import Dispatch
from deployments.router.generation.named_events import answer_so_far
from deployments.router.generation.rest_of_stream import RestOfStream
from deployments.router.generation.stream import (
    BROKEN_OFF,
    ENDING,
    Annotate,
    EventStream,
    Finish,
    cut_broken,
    finish_of,
    has_begun,
    is_error,
    tokens_in,
    usage_of,
)
from deployments.router.metrics.token_gaps import TokenGaps
from deployments.router.wire.requests import ParsedRequest, counts_usage
from deployments.router.wire.responder import Responder
from deployments.router.wire.upstream import ReplicaError

_USAGE_PARSE_BYTES_MAX = 4 * 1024 * 1024
_PASSED_ON = ("retry-after",)


class _Copy:
    """Everything that the client got, as long as it is not too much."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._parts: list[bytes] | None = []

    def add(self, out: bytes) -> None:
        """One more part."""
        if self._parts is None:
            return
        self._parts.append(out)
        self._bytes += len(out)
        if self._bytes > self._bytes_max:
            self._parts = None

    @property
    def body(self) -> bytes | None:
        """All of it; None if it was too much."""
        return None if self._parts is None else b"".join(self._parts)


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

    def cost_usd(self, model: ModelConfig) -> float:
        """What its tokens are counted at."""
        return model.cost_usd(self.prompt_tokens or 0, self.output_tokens)


class Relay:
    """One answer on its way."""

    def __init__(
        self,
        core: RouterCore,
        request: ParsedRequest,
        responder: Responder,
        dispatch: Dispatch,
        *,
        prompt_tokens: int,
        annotate: Annotate | None = None,
        broken: "Relay | None" = None,
    ) -> None:
        """Prepare.

        Args:
            core: the router's services.
            request: what the client asked.
            responder: the client's side.
            dispatch: the request's weight on the replica.
            prompt_tokens: the prompt's length as estimated.
            annotate: adds to the answer's usage; None leaves every byte as it is.
            broken: the relay whose stream this one goes on with.
        """
        self._core = core
        self._request = request
        self._responder = responder
        self._dispatch = dispatch
        self._annotate = annotate
        self.copy: _Copy | None = None
        """Of what was sent, for the cache; None if it is not wanted."""
        self.url = dispatch.replica.url
        """Of the replica."""
        self._events: EventStream | None = None
        self._own_tokens = 0
        self._entry_bytes_max = core.config.semantic_cache.exact.entry_bytes_max
        self.so_far = answer_so_far(request, core.config.gateway.continuation, prompt_tokens)
        self.relayed = Relayed()
        self.seam: Seam | None = None
        """Where in the answer the replica begins; None at its beginning."""
        if broken is not None:
            self.so_far, self.relayed, self.seam = broken.so_far, broken.relayed, broken.break_off()
            self.copy = broken.copy

    def tokens(self) -> int:
        """Output tokens that have come from this replica so far."""
        return self._own_tokens or (0 if self._events is None else self._events.events)

    def break_off(self) -> Seam | None:
        """The replica has failed in the middle: where another one goes on; None if none can."""
        events = self._events
        if events is None:
            return self.so_far.break_off(b"", complete=True)
        return self.so_far.break_off(events.tail, complete=events.tail_is_all)

    async def run(self, response: aiohttp.ClientResponse, *, keep_for_cache: bool) -> None:
        """Relay a response to its end.

        Raises:
            ReplicaError: the engine failed; nothing was sent if the responder has not started.
        """
        content_type = response.headers.get("content-type", "application/json")
        if self.seam is not None and response.status != 200:
            raise ReplicaError(f"status {response.status} for a continuation", unreachable=False)
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
            if self.relayed.finish is Finish.BROKEN:
                raise ReplicaError(BROKEN_OFF, unreachable=False)
            if self._annotate is not None and usage is not None:
                self._annotate(usage)
                body = orjson.dumps(answer)
        await self._responder.whole(response.status, self.relayed.content_type, body)
        if keep_for_cache and response.status == 200 and len(body) <= self._entry_bytes_max:
            self.relayed.cacheable_body = body

    async def _stream(self, response: aiohttp.ClientResponse, *, keep_for_cache: bool) -> None:
        events = self._events = self._event_stream()
        so_far = self.so_far
        strips = so_far.wanted and self.seam is None
        if self.seam is None and keep_for_cache:
            self.copy = _Copy(self._entry_bytes_max)
        held = b""
        gaps = self.relayed.gaps
        try:
            async for chunk in response.content.iter_any():
                out = events.feed(chunk)
                gaps.piece(chunk, self._core.now_s())
                broken_off = out.rfind(ENDING) >= 0
                if broken_off:
                    out, broken_off = cut_broken(out)
                if strips:
                    out = so_far.strip(out)
                if not self._responder.started:
                    held += out
                    if has_begun(held):
                        out, held = held, b""
                        await self._begin(out)
                        await self._pass_on(out)
                elif out:
                    if self.seam is not None:
                        self._dispatch.first_token()
                    await self._pass_on(out)
                if broken_off:
                    raise ReplicaError(BROKEN_OFF, unreachable=False)
                if so_far.failure is not None:
                    raise ReplicaError(so_far.failure, unreachable=False)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ReplicaError(f"{type(error).__name__}: {error}", unreachable=True) from error
        await self._finish(events, held + events.rest())

    def _event_stream(self) -> EventStream:
        if self.seam is not None:
            return RestOfStream(self.so_far, self.seam, annotate=self._annotate)
        asked_for_usage = counts_usage(self._request) and not self._request.wants_usage
        drop = asked_for_usage and self._annotate is None
        return EventStream(self._request.surface, drop_usage=drop, annotate=self._annotate)

    async def _finish(self, events: EventStream, rest: bytes) -> None:
        self._count(events.usage())
        self._own_tokens = max(0, self.relayed.output_tokens - (self.seam.tokens if self.seam else 0))
        self.relayed.finish = events.finish()
        if not self.relayed.output_tokens:
            self.relayed.output_tokens = events.events
        if not events.ended_well():
            raise ReplicaError("the stream ended before the answer did", unreachable=False)
        if not self._responder.started:
            await self._begin(rest)
        self._keep(rest)
        await self._responder.end(rest)
        if self.copy is not None and self.relayed.finish is not Finish.BROKEN:
            self.relayed.cacheable_body = self.copy.body

    async def close(self) -> None:
        """End a stream of which the client has all but the end."""
        rest = self.so_far.closing()
        if self._events is not None:
            self.relayed.finish = self._events.finish()
        self.relayed.prompt_tokens = self.so_far.prompt_tokens
        self.relayed.output_tokens = self.so_far.tokens
        self.relayed.ended_at_s = self._core.now_s()
        await self._responder.end(rest)

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
        if self.copy is not None:
            self.copy.add(out)

    def _count(self, usage: dict[str, object] | None) -> None:
        prompt, cached, output = tokens_in(usage)
        self.relayed.prompt_tokens = prompt
        self.relayed.cached_tokens = cached
        self.relayed.output_tokens = output or 0
