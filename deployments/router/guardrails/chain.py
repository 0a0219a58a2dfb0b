"""The chain of guardrails around one request: what the model gets, and what the client gets.

It stands where the client's side begins, so that whatever is sent, from an engine, from the cache or from a
cascade, has passed it. What is kept in the cache is the answer as the engine gave it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from cluster.config.guardrails import GuardrailConfig, GuardrailsConfig
from cluster.entities.reasons import Reason
from cluster.entities.workload import Surface
from deployments.router.guardrails.guardrail import BlockedError, Guardrail, Passage, StreamFilter, make
from deployments.router.guardrails.text import (
    Slot,
    answer_slots,
    deltas,
    ends,
    request_slots,
    rest_event,
    without_tokens,
)
from deployments.router.wire.errors import ApiError
from deployments.router.wire.requests import ParsedRequest
from deployments.router.wire.responder import Responder, Send

logger = logging.getLogger("tidemill.router.guardrails")

_CARRY_BYTES_MAX = 1024 * 1024
_CHARS_IN_TIME = 65_536
"""Of text for which a guardrail has `timeout_s`."""
OnAction = Callable[[str, str, str, float], None]
"""Told of every guardrail, stage, action and how long it took in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A request that the chain has seen."""

    request: ParsedRequest
    """As the model gets it."""
    reasons: tuple[Reason, ...] = ()
    refusal: ApiError | None = None
    """What the client gets instead of an answer."""


@dataclass(frozen=True, slots=True)
class Link:
    """One guardrail of the chain."""

    config: GuardrailConfig
    guardrail: Guardrail


class Guardrails:
    """The chain that the configuration names."""

    def __init__(self, config: GuardrailsConfig, on_action: OnAction) -> None:
        """Make them.

        Args:
            config: the chain.
            on_action: told of everything they do.

        Raises:
            ValueError: one cannot be made.
        """
        self.links = tuple(Link(entry, make(entry.use, entry.options)) for entry in config.chain)
        self._on_action = on_action

    @classmethod
    def of(cls, config: GuardrailsConfig, on_action: OnAction) -> "Guardrails | None":
        """The chain; None if it is empty."""
        return cls(config, on_action) if config.chain else None

    def responder(self, send: Send, surface: Surface) -> "GuardedResponder":
        """The client's side of a request."""
        return GuardedResponder(send, self, surface)

    async def request(self, request: ParsedRequest, parse_again: Callable[[bytes], ParsedRequest]) -> Guarded:
        """Let the chain see a request.

        Args:
            request: as the client sent it; its body is changed in place.
            parse_again: reads a body that was changed.
        """
        reasons: list[Reason] = []
        try:
            changed = await self._pass(request_slots(request.body, request.surface), "request", reasons)
        except ApiError as refusal:
            return Guarded(request=request, reasons=tuple(reasons), refusal=refusal)
        if changed:
            request = replace(parse_again(orjson.dumps(request.body)), deadline_at_s=request.deadline_at_s)
        return Guarded(request=request, reasons=tuple(reasons))

    async def answer(self, answer: Any, reasons: list[Reason]) -> bool:
        """Let the chain see a whole answer, changed in place, then without its tokens. True if it was.

        Raises:
            ApiError: 400 if it is refused, 503 if a guardrail failed that must not.
        """
        changed = await self._pass(answer_slots(answer), "answer", reasons)
        if changed:
            without_tokens(answer)
        return changed

    async def _pass(self, slots: list[Slot], stage: str, reasons: list[Reason]) -> bool:
        changed = False
        turns = 1 + sum(len(slot.text) for slot in slots) // _CHARS_IN_TIME
        for link in self.links:
            passages = [Passage(role=slot.role, text=slot.text) for slot in slots]
            began_at_s = time.perf_counter()
            try:
                async with asyncio.timeout(turns * link.config.timeout_s):
                    hook = (
                        link.guardrail.before_request if stage == "request" else link.guardrail.after_response
                    )
                    found = await hook(passages)
                differs = _put(slots, passages, found)
            except BlockedError as error:
                self.tell(link, stage, "blocked", began_at_s)
                reasons.append(Reason.GUARDRAIL_BLOCKED)
                raise blocked(link, error) from None
            except Exception as error:  # noqa: BLE001 - whatever it is, the configuration says what then
                self.failed(link, stage, began_at_s, error, reasons)
                continue
            self.tell(link, stage, "changed" if differs else "passed", began_at_s)
            changed = changed or differs
        if changed:
            reasons.append(Reason.GUARDRAIL_CHANGED)
        return changed

    def tell(self, link: Link, stage: str, action: str, began_at_s: float) -> None:
        """Count what a guardrail did."""
        self._on_action(link.config.name, stage, action, time.perf_counter() - began_at_s)

    def failed(
        self, link: Link, stage: str, began_at_s: float, error: Exception, reasons: list[Reason]
    ) -> None:
        """Go on without a guardrail that failed, if it may be.

        Raises:
            ApiError: 503 if not.
        """
        # The error's own words may quote what was guarded.
        logger.warning("guardrail %s failed on a %s: %s", link.config.name, stage, type(error).__name__)
        self.tell(link, stage, "failed", began_at_s)
        reasons.append(Reason.GUARDRAIL_FAILED)
        if link.config.on_failure == "refuse":
            raise ApiError(
                status=503,
                message=f"The guardrail {link.config.name} is not available.",
                code="guardrail_unavailable",
                headers={"retry-after": "1"},
            ) from None


def blocked(link: Link, error: BlockedError) -> ApiError:
    """400."""
    return ApiError(
        status=400,
        message=str(error) or f"Refused by the guardrail {link.config.name}.",
        code="content_blocked",
    )


def _put(slots: list[Slot], before: Sequence[Passage], after: Sequence[Passage]) -> bool:
    if len(after) != len(before):
        raise ValueError("a guardrail must return as many passages as it was given")
    changed = False
    for slot, old, new in zip(slots, before, after, strict=True):
        if new.text != old.text:
            slot.put(new.text)
            changed = True
    return changed


class GuardedResponder(Responder):
    """Sends what the chain lets pass."""

    def __init__(self, send: Send, chain: Guardrails, surface: Surface) -> None:
        """Nothing was sent yet."""
        super().__init__(send)
        self._chain = chain
        self._surface = surface
        self._stream: _GuardedStream | None = None
        self._guarding = True

    async def start(self, status: int, headers: Any) -> None:
        """See `Responder`."""
        if status == 200 and self._guarding and headers["content-type"].startswith("text/event-stream"):
            headers = {name: value for name, value in headers.items() if name != "content-length"}
            self._stream = _GuardedStream(self._chain, self._surface, self.reasons)
        await super().start(status, headers)

    async def chunk(self, body: bytes) -> None:
        """See `Responder`."""
        if self._stream is not None:
            body = self._stream.feed(body)
        if body:
            await super().chunk(body)

    async def end(self, body: bytes = b"") -> None:
        """See `Responder`."""
        stream, self._stream = self._stream, None
        if stream is not None:
            body = stream.feed(body) + stream.rest()
        await super().end(body)

    async def whole(self, status: int, content_type: str, body: bytes) -> None:
        """See `Responder`."""
        if status == 200 and self._guarding and content_type.startswith("application/json"):
            answer = orjson.loads(body)
            if await self._chain.answer(answer, self.reasons):
                body = orjson.dumps(answer)
        await super().whole(status, content_type, body)

    async def error(self, error: ApiError, surface: Surface | None) -> None:
        """See `Responder`; what is ours passes as it is."""
        self._stream, self._guarding = None, False
        await super().error(error, surface)


class _GuardedStream:
    """Server-sent events with the pieces of texts passed through the chain's filters."""

    def __init__(self, chain: Guardrails, surface: Surface, reasons: list[Reason]) -> None:
        self._chain = chain
        self._surface = surface
        self._reasons = reasons
        self._carry = b""
        self._texts: dict[tuple[Any, ...], list[tuple[Link, StreamFilter]]] = {}
        self._links = [link for link in chain.links if link.guardrail.on_stream() is not None]

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes; what may be sent now.

        Raises:
            ApiError: the answer ends here.
        """
        if not self._links:
            return chunk
        whole, separator, self._carry = (self._carry + chunk).rpartition(b"\n\n")
        if len(self._carry) > _CARRY_BYTES_MAX:
            raise ApiError(status=502, message="An event of the answer is too long.", code="engine_failed")
        if not separator:
            return b""
        return b"".join(self._event(event) for event in whole.split(b"\n\n") if event.strip())

    def rest(self) -> bytes:
        """What is left when the stream has ended."""
        rest, self._carry = self._carry, b""
        return self._event(rest) if rest.strip() else rest

    def _event(self, event: bytes) -> bytes:
        lines = event.split(b"\n")
        place = next((i for i, line in enumerate(lines) if line.startswith(b"data: {")), None)
        if place is None:
            return event + b"\n\n"
        try:
            content = orjson.loads(lines[place][6:])
        except orjson.JSONDecodeError:
            return event + b"\n\n"
        without_tokens(content)  # they would come before it is known what is to be hidden
        before = self._before_end(content)
        for delta in deltas(content, self._surface):
            delta.slot.put(self._filtered(delta.stream, delta.slot.text, last=delta.last))
        for slot in answer_slots(content):
            # What repeats a whole text gets filters of its own.
            slot.put(self._filtered(("whole", id(slot)), slot.text, last=True))
        lines[place] = b"data: " + orjson.dumps(content)
        return before + b"\n".join(lines) + b"\n\n"

    def _before_end(self, content: Any) -> bytes:
        """Events with what was held back of a text that ends now."""
        ended = ends(content)
        if ended is None:
            return b""
        out = b""
        for stream in [key for key in self._texts if key[: len(ended)] == ended]:
            text = self._filtered(stream, "", last=True)
            if text:
                name, event = rest_event(stream, text, content)
                out += b"event: " + name + b"\ndata: " + orjson.dumps(event) + b"\n\n"
        return out

    def _filtered(self, stream: tuple[Any, ...], text: str, *, last: bool) -> str:
        filters = self._texts.get(stream)
        if filters is None:
            made = ((link, link.guardrail.on_stream()) for link in self._links)
            filters = self._texts[stream] = [(link, one) for link, one in made if one is not None]
        for link, one in list(filters):
            began_at_s = time.perf_counter()
            try:
                text = one.feed(text) + (one.end() if last else "")
            except BlockedError as error:
                self._chain.tell(link, "stream", "blocked", began_at_s)
                self._reasons.append(Reason.GUARDRAIL_BLOCKED)
                raise blocked(link, error) from None
            except Exception as error:  # noqa: BLE001 - whatever it is, the configuration says what then
                filters.remove((link, one))
                self._chain.failed(link, "stream", began_at_s, error, self._reasons)
        if last:
            self._count(filters)
            del self._texts[stream]
        return text

    def _count(self, filters: list[tuple[Link, StreamFilter]]) -> None:
        for link, one in filters:
            changed = bool(getattr(one, "hidden", 0))
            self._chain.tell(link, "stream", "changed" if changed else "passed", time.perf_counter())
            if changed and Reason.GUARDRAIL_CHANGED not in self._reasons:
                self._reasons.append(Reason.GUARDRAIL_CHANGED)
