"""What another replica needs to go on with a stream, and how the rest is told to the client.

While an answer runs, only the ids of its tokens are taken out and kept; everything else is read from the last
events if the replica fails. The policy is `cluster.policy.continuation`.
"""

from array import array
from collections import deque
from itertools import takewhile
from typing import Any

import orjson

from cluster.config.continuation import ContinuationConfig
from cluster.entities.workload import Surface
from cluster.policy.continuation import (
    STOP_CHARS_MAX,
    Boundary,
    NotContinued,
    Seam,
    find_seam,
    held_chars,
    not_continued,
    stop_strings,
)
from deployments.router.generation.stream import cut_broken
from deployments.router.wire.requests import ParsedRequest

# Quotes inside an answer's text are escaped, so that no answer can look like these.
_IDS, _PROMPT = b'token_ids":[', b"prompt_"
_ERROR = b'data: {"error"'
DONE = b"data: [DONE]"
_KEPT_CHARS = 2 * STOP_CHARS_MAX
_KEPT_BOUNDARIES = 2048
_HEAD = ("id", "object", "created", "model")
_COMPLETION_TOKENS_DEFAULT = 16
"""What `/v1/completions` takes for `max_tokens` where nobody says it."""
_CHAT_ONLY = frozenset(
    {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"),
        *("documents", "max_completion_tokens", "include_reasoning", "reasoning_effort", "logprobs"),
        *("top_logprobs", "response_format", "mm_processor_kwargs", "modalities", "store", "metadata"),
    }
)


def _why_not(request: ParsedRequest, config: ContinuationConfig, prompt_tokens: int) -> NotContinued | None:
    if not config.enabled or not request.stream:
        return NotContinued.SWITCHED_OFF
    if prompt_tokens > config.tokens_max:
        return NotContinued.TOO_LONG
    return not_continued(request.surface, request.body, one_sequence=request.splittable)


class AnswerSoFar:
    """One stream's tokens, whichever replicas made them."""

    def __init__(self, request: ParsedRequest, config: ContinuationConfig, prompt_tokens: int) -> None:
        """Start before the first byte.

        Args:
            request: what the client asked.
            config: whether and how far.
            prompt_tokens: the prompt's length as estimated.
        """
        self._request = request
        self._tokens_max = config.tokens_max
        self.refused = _why_not(request, config, prompt_tokens)
        """Why it is not taken up if it breaks off; None if it is."""
        self.wanted = self.refused is None
        """Whether engines are to tell the ids of their tokens."""
        self.failure: str | None = None
        """What an engine said in the middle of its stream when it failed; not for the client yet."""
        self._prompt_ids = b""
        self._tokens = array("Q")
        self._held_chars = held_chars(stop_strings(request.body)) if self.wanted else 0
        self._boundaries: deque[Boundary] = deque(maxlen=_KEPT_BOUNDARIES)
        self._read = False
        self.usage_told = False
        """Whether the client has its usage."""
        self.done_told = False
        """Whether it has been told that nothing more comes."""
        self._sent_chars = 0
        self._sent_text = ""
        """The end of it."""
        self._head: dict[str, Any] = {}
        self.finished = False
        """Whether the client has been told why the answer ended; at most its usage is missing then."""

    @property
    def tokens(self) -> int:
        """Tokens of the answer so far."""
        return len(self._tokens)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; 0 until the engine has told them."""
        return self._prompt_ids.count(b",") + 1 if self._prompt_ids else 0

    def asked(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request as the first replica gets it, so that it tells the ids of its tokens."""
        return {**body, "return_token_ids": True} if self.wanted else body

    @property
    def headers(self) -> dict[str, str]:
        """Of that request."""
        return {}

    def strip(self, events: bytes) -> bytes:
        """Whole events without what the client did not ask for, up to one that says `failure`."""
        return self.take_ids(events)

    def take_ids(self, events: bytes) -> bytes:
        """Whole events of a completion without the ids in them, up to one that says `failure`."""
        if _ERROR in events:
            begin = events.index(_ERROR)
            self.failure = events[begin:][:500].decode("utf-8", "replace")
            events = events[:begin]
        parts: list[bytes] = []
        place = 0
        while (found := events.find(_IDS, place)) >= 0:
            begin = found + len(_IDS)
            end = events.index(b"]", begin)
            ids = events[begin:end]
            if events[found - len(_PROMPT) : found] == _PROMPT:
                self._prompt_ids = self._prompt_ids or ids
            elif b"," in ids:
                self._tokens.extend(map(int, ids.split(b",")))
            elif ids:
                self._tokens.append(int(ids))
            parts += (events[place : begin - 1], b"null")
            place = end + 1
        if not parts:
            return events
        parts.append(events[place:])
        self._bound_tokens()
        return b"".join(parts)

    def _bound_tokens(self) -> None:
        if len(self._tokens) > self._tokens_max:
            self.refused, self._tokens = NotContinued.TOO_LONG, array("Q")

    def break_off(self, tail: bytes, *, complete: bool) -> Seam | None:
        """Read what a failed replica sent; where to go on, None if that cannot be.

        Args:
            tail: the last bytes of its stream.
            complete: whether they are all of it.
        """
        self.failure = None
        if self.refused is None and not self._read:
            self._read = True
            try:
                self._read_tail(tail, complete=complete)
            except (ValueError, KeyError, TypeError, AttributeError):
                # Not what an engine sends; it cannot be known what the client has made of it.
                self._boundaries.clear()
        if self.finished:
            return None
        if self.refused is None and not self._prompt_ids:
            self.refused = NotContinued.IDS
        seam = find_seam(self._boundaries, sent_chars=self._sent_chars) if self.refused is None else None
        if seam is None or seam.repeated_chars > len(self._sent_text):
            self.refused = self.refused or NotContinued.NOT_TEXT
            return None
        del self._tokens[seam.tokens :]
        while self._boundaries and self._boundaries[-1].tokens > seam.tokens:
            self._boundaries.pop()
        return seam

    def _read_tail(self, tail: bytes, *, complete: bool) -> None:
        # The last event may have broken off, and the first one where the tail was cut.
        events = tail.split(b"\n\n")[:-1][0 if complete else 1 :]
        told = list(takewhile(lambda event: not (event.startswith(_ERROR) or cut_broken(event)[1]), events))
        parsed = [orjson.loads(event[6:]) for event in told if event.startswith(b"data: {")]
        self.done_told = any(event.startswith(DONE) for event in told)
        made = [sum(len(c.get("token_ids") or ()) for c in event["choices"]) for event in parsed]
        tokens = len(self._tokens) - sum(made)
        if complete:
            self._boundaries.append(Boundary(tokens=0, chars=0))
        for event, count in zip(parsed, made, strict=True):
            tokens += count
            self.usage_told = self.usage_told or not event["choices"]
            for choice in event["choices"]:
                self._note(event, choice, tokens=tokens)

    def _note(self, event: dict[str, Any], choice: dict[str, Any], *, tokens: int) -> None:
        self._head = self._head or {name: event[name] for name in _HEAD if name in event}
        self.finished = self.finished or choice.get("finish_reason") is not None
        text = self._text_of(choice)
        if text is None:
            # Reasoning, or whatever a parser made of tokens: what was said before cannot be told from them.
            self._boundaries.clear()
        elif text:
            self.sent(text)
            self.reached(tokens, self._sent_chars)

    def _text_of(self, choice: dict[str, Any]) -> str | None:
        if self._request.surface is Surface.COMPLETIONS:
            return str(choice.get("text") or "")
        delta = choice.get("delta") or {}
        if any(value for name, value in delta.items() if name not in {"role", "content"}):
            return None
        return str(delta.get("content") or "")

    def sent(self, text: str) -> None:
        """The client gets this text now."""
        self._sent_chars += len(text)
        self._sent_text = (self._sent_text + text)[-_KEPT_CHARS:]

    def reached(self, tokens: int, chars: int) -> None:
        """An engine that has made so many tokens has let go of so many characters."""
        self._boundaries.append(Boundary(tokens=tokens, chars=chars + self._held_chars))

    def repeated(self, seam: Seam) -> str:
        """The text that the next replica makes again."""
        return self._sent_text[len(self._sent_text) - seam.repeated_chars :] if seam.repeated_chars else ""

    @property
    def sent_chars(self) -> int:
        """Characters that the client has."""
        return self._sent_chars

    @property
    def bound_tokens(self) -> int | None:
        """The request's bound on the answer; None if the model's length is the only one."""
        asked = self._request.body
        if self._request.surface is Surface.COMPLETIONS:
            bound = asked.get("max_tokens", _COMPLETION_TOKENS_DEFAULT)
        else:
            bound = asked.get("max_completion_tokens") or asked.get("max_tokens")
        return bound if isinstance(bound, int) else None

    def body(self, seam: Seam, *, most_tokens: int | None) -> bytes:
        """The request to the replica that goes on: prompt and answer so far, as token ids.

        Args:
            seam: where it begins.
            most_tokens: for the rest of the answer where the request has no bound: text completions need one,
                and take no more than fit.
        """
        asked = self._request.body
        bound = self.bound_tokens
        least = asked.get("min_tokens")
        body = self._sampling() | {
            "prompt": [*map(int, self._prompt_ids.split(b",")), *self._tokens],
            "max_tokens": most_tokens if bound is None else bound - seam.tokens,
            "min_tokens": max(0, least - seam.tokens) if isinstance(least, int) else 0,
            "add_special_tokens": False,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        return orjson.dumps(body)

    def _sampling(self) -> dict[str, Any]:
        """How tokens are chosen, and who asks, as a text completion says it."""
        return {name: value for name, value in self._request.body.items() if name not in _CHAT_ONLY}

    def more(self, fresh: str, choice: dict[str, Any]) -> bytes:
        """The events of a piece of text that another replica has made.

        Args:
            fresh: the text.
            choice: as the replica tells it, with why the answer ends if it does.
        """
        finish = choice.get("finish_reason")
        chat = self._request.surface is Surface.CHAT
        said: dict[str, Any] = {"delta": {"content": fresh}} if chat else {"text": fresh}
        ending: dict[str, Any] = {"logprobs": None, "finish_reason": finish}
        if finish is not None or not chat:
            ending["stop_reason"] = choice.get("stop_reason")
        if not chat:
            ending["prompt_token_ids"] = None
        return self._event([{"index": 0, **said, **ending, "token_ids": None}])

    def with_usage(self, usage: dict[str, Any], *, annotated: bool) -> bytes:
        """The events that tell the client its usage.

        Args:
            usage: of the whole answer.
            annotated: whether it has been added to, at the client's wish.
        """
        if not (self._request.wants_usage or annotated):
            return b""
        self.usage_told = True
        return self._event([], usage)

    def done(self) -> bytes:
        """What says that nothing more comes."""
        self.done_told = True
        return DONE + b"\n\n"

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        """An event under the name of the first replica's answer."""
        content = {**self._head, "choices": choices}
        if usage is not None:
            content["usage"] = usage
        return b"data: " + orjson.dumps(content) + b"\n\n"

    def closing(self) -> bytes:
        """What is missing of a stream of which only the end got lost."""
        if self.done_told:
            return b""
        return (b"" if self.usage_told else self.with_usage(self._usage(), annotated=False)) + self.done()

    def _usage(self) -> dict[str, Any]:
        """Of the answer so far."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
            "completion_tokens": self.tokens,
            "prompt_tokens_details": None,
        }
