"""Continuations of `/v1/responses` and `/v1/messages`, whose events have names and tell no token ids.

Engines tell the ids between the events (`deployments.messages.ToldTokens`). The events are read as they pass,
because their ends repeat what their beginnings said. The replica that goes on answers with a text completion;
what the client gets of it are the surface's own events, each of them once.
"""

from abc import abstractmethod
from typing import Any

import orjson

from cluster.config.continuation import ContinuationConfig
from cluster.entities.workload import Surface
from cluster.policy.continuation import Boundary, NotContinued, stop_strings
from deployments.messages import TOKENS_ASKED, ToldTokens
from deployments.router.generation.continuation import AnswerSoFar
from deployments.router.generation.stream import BROKEN_OFF, BROKEN_WORDS, ERRORS
from deployments.router.wire.requests import ParsedRequest

_SAMPLING = (
    *("model", "temperature", "top_p", "top_k", "min_p", "seed", "logit_bias", "repetition_penalty"),
    *("stop_token_ids", "ignore_eos", "skip_special_tokens", "priority", "cache_salt", "vllm_xargs"),
    *("user", "watermarking"),
)
"""Fields that a text completion understands as these surfaces do."""
_ENDS_WELL = ("stop", "length")
_ADDED_TO_USAGE = ("energy_j", "energy_source")
_Json = dict[str, Any]


def answer_so_far(request: ParsedRequest, config: ContinuationConfig, prompt_tokens: int) -> AnswerSoFar:
    """The state of a stream on its surface, before the first byte."""
    kinds = {Surface.MESSAGES: MessageSoFar, Surface.RESPONSES: ResponseSoFar}
    return kinds.get(request.surface, AnswerSoFar)(request, config, prompt_tokens)


class _NamedSoFar(AnswerSoFar):
    """What both surfaces have in common."""

    def __init__(self, request: ParsedRequest, config: ContinuationConfig, prompt_tokens: int) -> None:
        """Start before the first byte."""
        super().__init__(request, config, prompt_tokens)
        self._told: set[str] = set()
        """Names of the events that the client has."""
        self._boundaries.append(Boundary(tokens=0, chars=0))
        self._let_go_chars = 0
        self._finish: str | None = None
        self._stop: str | int | None = None

    def asked(self, body: _Json) -> _Json:
        """As it came: the surface has no field for it."""
        return body

    @property
    def headers(self) -> dict[str, str]:
        """What asks for the tokens instead."""
        return {TOKENS_ASKED: "1"} if self.wanted else {}

    def strip(self, events: bytes) -> bytes:
        """Whole events without what the engine tells between them, up to one that says `failure`."""
        kept: list[bytes] = []
        for event in events.split(b"\n\n"):
            if event.startswith(ERRORS):
                self.failure = event[:500].decode("utf-8", "replace")
                kept.append(b"")
                break
            try:
                told = ToldTokens.of(event)
                if told is not None:
                    self._take(told)
                    if told.finish in BROKEN_WORDS:
                        self.failure = BROKEN_OFF
                        kept.append(b"")
                        break
                    continue
                if event.strip() and self.refused is None:
                    self._read_event(orjson.loads(event[event.index(b"data: ") + 6 :]))
            except (ValueError, KeyError, TypeError, AttributeError):
                # Not what an engine sends; it cannot be known what the client has made of it.
                self.refused = NotContinued.NOT_TEXT
            kept.append(event)
        return b"\n\n".join(kept)

    def _take(self, told: ToldTokens) -> None:
        if told.prompt:
            self._prompt_ids = ",".join(map(str, told.prompt)).encode()
        self._tokens.extend(told.made)
        self._let_go_chars += told.chars
        self._finish = told.finish if told.finish in _ENDS_WELL else None
        self._stop = told.stop
        self._bound_tokens()

    def _read_event(self, event: _Json) -> None:
        kind = event["type"]
        text = self._read_named(kind, event)
        self._told.add(kind)
        if text:
            self.sent(text)
            self.reached(self.tokens, self.sent_chars)

    @abstractmethod
    def _read_named(self, kind: str, event: _Json) -> str:
        """Take what the rest needs from an event; the text in it.

        Raises:
            ValueError: it is of something else than text.
        """

    def _read_tail(self, tail: bytes, *, complete: bool) -> None:
        """Nothing is left to read but whether all has been said."""
        del tail, complete
        self.finished = self._finish is not None and self.sent_chars == self._let_go_chars

    def _sampling(self) -> _Json:
        kept = {name: self._request.body[name] for name in _SAMPLING if name in self._request.body}
        stop = list(stop_strings(self._request.body))
        return kept | ({"stop": stop} if stop else {})

    def more(self, fresh: str, choice: _Json) -> bytes:
        """The events of a piece of text; the end waits for the usage."""
        self._finish, self._stop = choice.get("finish_reason"), choice.get("stop_reason")
        return self._piece(fresh) if fresh else b""

    def with_usage(self, usage: _Json, *, annotated: bool) -> bytes:
        """The events that end the answer: they tell its usage, whoever asks."""
        del annotated
        out = self._ending(usage)
        self.usage_told = self.done_told = True
        return out

    def done(self) -> bytes:
        """Nothing: the end has said it."""
        return b""

    @abstractmethod
    def _piece(self, fresh: str) -> bytes:
        """The event of a piece of text."""

    @abstractmethod
    def _ending(self, usage: _Json) -> bytes:
        """What is missing after the last piece."""

    def _untold(self, kind: str, **fields: Any) -> bytes:
        """An event that comes once; nothing if the client has it."""
        if kind in self._told:
            return b""
        self._told.add(kind)
        return self._named(kind, fields)

    def _named(self, kind: str, fields: _Json) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


class MessageSoFar(_NamedSoFar):
    """A stream of `/v1/messages`."""

    def __init__(self, request: ParsedRequest, config: ContinuationConfig, prompt_tokens: int) -> None:
        """Start before the first byte."""
        super().__init__(request, config, prompt_tokens)
        self._index = 0
        """Of the block of text."""

    @property
    def bound_tokens(self) -> int | None:
        """The request's bound on the answer."""
        bound = self._request.body.get("max_tokens")
        return bound if isinstance(bound, int) else None

    def _read_named(self, kind: str, event: _Json) -> str:
        if kind == "content_block_start":
            self._index = event["index"]
            _must_be(event["content_block"]["type"], "text")
        elif kind == "content_block_delta":
            _must_be(event["delta"]["type"], "text_delta")
            return str(event["delta"]["text"])
        return ""

    def _piece(self, fresh: str) -> bytes:
        block = {"type": "text", "text": ""}
        opened = self._untold("content_block_start", index=self._index, content_block=block)
        delta = {"type": "text_delta", "text": fresh}
        return opened + self._named("content_block_delta", {"index": self._index, "delta": delta})

    def _ending(self, usage: _Json) -> bytes:
        reason, sequence = self._stop_reason()
        closed = b""
        if "content_block_start" in self._told:
            closed = self._untold("content_block_stop", index=self._index)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        last = self._untold("message_delta", delta=delta, usage=_messages_usage(usage))
        return closed + last + self._untold("message_stop")

    def _stop_reason(self) -> tuple[str | None, str | None]:
        if self._finish not in _ENDS_WELL:
            return None, None
        if self._finish == "length":
            return "max_tokens", None
        return ("stop_sequence", self._stop) if isinstance(self._stop, str) else ("end_turn", None)


class ResponseSoFar(_NamedSoFar):
    """A stream of `/v1/responses`."""

    def __init__(self, request: ParsedRequest, config: ContinuationConfig, prompt_tokens: int) -> None:
        """Start before the first byte."""
        super().__init__(request, config, prompt_tokens)
        self._response: _Json = {}
        self._item: _Json = {}
        self._output_index = 0
        self._part: _Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._texts: list[str] = []
        self._number = -1
        """Of the last event."""

    @property
    def bound_tokens(self) -> int | None:
        """The request's bound on the answer; None if the model's length is the only one."""
        bound = self._request.body.get("max_output_tokens")
        return bound if isinstance(bound, int) else None

    def _read_named(self, kind: str, event: _Json) -> str:
        self._number = event["sequence_number"]
        if kind == "response.created":
            self._response = event["response"]
        elif kind == "response.output_item.added":
            _must_be(event["item"]["type"], "message")
            self._item, self._output_index = event["item"], event["output_index"]
        elif kind == "response.content_part.added":
            _must_be(event["part"]["type"], "output_text")
            self._part = event["part"]
        elif kind == "response.output_text.delta":
            return str(event["delta"])
        elif kind not in self._ends:
            raise ValueError(kind)
        return ""

    _ends = frozenset(
        {
            *("response.in_progress", "response.output_text.done", "response.content_part.done"),
            *("response.output_item.done", "response.completed", "response.incomplete"),
        }
    )

    def _read_tail(self, tail: bytes, *, complete: bool) -> None:
        super()._read_tail(tail, complete=complete)
        if not self._item and not self.finished:
            self.refused = NotContinued.NOT_TEXT  # nothing that could be gone on with, only announcements

    def sent(self, text: str) -> None:
        """The client gets this text now; it gets all of it again at the end."""
        super().sent(text)
        self._texts.append(text)

    @property
    def _place(self) -> _Json:
        return {"item_id": self._item["id"], "output_index": self._output_index, "content_index": 0}

    def _piece(self, fresh: str) -> bytes:
        opened = self._untold("response.content_part.added", **self._place, part=self._part)
        delta = {**self._place, "delta": fresh, "logprobs": []}
        return opened + self._named("response.output_text.delta", delta)

    def _ending(self, usage: _Json) -> bytes:
        out, items = b"", []
        if self._item:
            text = "".join(self._texts)
            part = {**self._part, "text": text, "logprobs": None}
            items = [{**self._item, "content": [part] if text else [], "status": "completed"}]
            out = self._untold("response.output_text.done", **self._place, text=text, logprobs=[])
            out += self._untold("response.content_part.done", **self._place, part=part)
            done = {"output_index": self._output_index, "item": items[0]}
            out += self._untold("response.output_item.done", **done)
        cut = self._finish == "length"
        response = {
            **self._response,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": items,
            "usage": _responses_usage(usage),
        }
        # vLLM calls it completed even if the answer was cut.
        return out + self._untold("response.completed", response=response)

    def _named(self, kind: str, fields: _Json) -> bytes:
        self._number += 1
        return super()._named(kind, {"sequence_number": self._number, **fields})


def _messages_usage(usage: _Json) -> _Json:
    """Usage of a completion in the words of messages, which count cached tokens apart."""
    details = usage.get("prompt_tokens_details")
    cached = (details or {}).get("cached_tokens") or 0
    apart = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": cached} if details else {}
    return {
        "input_tokens": usage["prompt_tokens"] - cached,
        "output_tokens": usage["completion_tokens"],
        **apart,
        **{name: usage[name] for name in _ADDED_TO_USAGE if name in usage},
    }


def _responses_usage(usage: _Json) -> _Json:
    """Usage of a completion in the words of responses."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    prompt = {"cached_tokens": cached, "cache_write_tokens": 0}
    output = {"reasoning_tokens": 0, "tool_output_tokens": 0}
    turns: _Json = {"output_tokens_per_turn": [], "tool_output_tokens_per_turn": []}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {**prompt, "input_tokens_per_turn": [], "cached_tokens_per_turn": []},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {**output, **turns},
        "total_tokens": usage["total_tokens"],
        **{name: usage[name] for name in _ADDED_TO_USAGE if name in usage},
    }


def _must_be(kind: object, wanted: str) -> None:
    """Refuse thoughts and calls: what was said of them cannot be told from tokens.

    Raises:
        ValueError: it is something else.
    """
    if kind != wanted:
        raise ValueError(f"{kind} is not {wanted}")
