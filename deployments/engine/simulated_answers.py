"""The bodies that the simulated engine sends: whole answers, and streams cut at every token.

The parts of an event that do not change within a stream are rendered once: the engine has to write tens of
thousands of events in a second for a router to be the slowest part of a measurement.
"""

from collections.abc import Callable
from typing import Any, Protocol

import orjson

from cluster.entities.workload import Surface
from deployments.engine.simulated_requests import WORD_IDS, Ask, answer_words
from deployments.messages import ToldTokens

Json = dict[str, Any]

_ID_PREFIXES = {
    Surface.CHAT: "chatcmpl-",
    Surface.COMPLETIONS: "cmpl-",
    Surface.RESPONSES: "resp_",
    Surface.MESSAGES: "msg_",
}


class Draft:
    """An answer before it is written: its texts, its numbers, and what identifies it."""

    def __init__(self, ask: Ask, *, model: str, request_id: str, created_at_s: float) -> None:
        self.ask = ask
        self.model = model
        self.created_at_s = int(created_at_s)
        self.id = _ID_PREFIXES[ask.surface] + request_id
        self.pieces = [
            [f" {word}" if place + prompt.said else word for place, word in enumerate(words)]
            for prompt in ask.prompts
            for words in (
                answer_words(prompt, choice, ask.output_tokens) for choice in range(ask.choices_per_prompt)
            )
        ]
        """For each choice the text of each token."""

    @property
    def texts(self) -> list[str]:
        """The whole text of each choice."""
        return ["".join(pieces) for pieces in self.pieces]

    @property
    def output_tokens(self) -> int:
        """Tokens of all choices."""
        return len(self.pieces) * self.ask.output_tokens

    @property
    def finish_reason(self) -> str:
        """Why the answer ends, in OpenAI's words."""
        return "length" if self.ask.bounded else "stop"

    def usage(self) -> Json:
        """Token counts as the completions surfaces give them."""
        prompt, output = self.ask.prompt_tokens, self.output_tokens
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + output,
            "completion_tokens": output,
            "prompt_tokens_details": None,
        }


class Events(Protocol):
    """Writes one stream."""

    def opening(self) -> bytes:
        """What comes before the first token."""
        ...

    def tokens(self, choice: int, start: int, stop: int) -> bytes:
        """The events of a run of tokens of one choice, its end included."""
        ...

    def closing(self) -> bytes:
        """What comes after the last token of the last choice."""
        ...


def whole(draft: Draft, kv_transfer_params: Json | None) -> Json:
    """The body of an answer that is not streamed."""
    if draft.ask.surface is Surface.MESSAGES:
        return _message(draft, text=draft.texts[0])
    if draft.ask.surface is Surface.RESPONSES:
        return {**_response(draft, text=draft.texts[0]), "kv_transfer_params": kv_transfer_params}
    chat = draft.ask.surface is Surface.CHAT
    ending = {"logprobs": None, "finish_reason": draft.finish_reason, "stop_reason": None}
    return {
        "id": draft.id,
        "object": "chat.completion" if chat else "text_completion",
        "created": draft.created_at_s,
        "model": draft.model,
        "choices": [
            {
                "index": index,
                **({"message": _assistant(text)} if chat else {"text": text}),
                **ending,
            }
            for index, text in enumerate(draft.texts)
        ],
        "system_fingerprint": None,
        "usage": draft.usage(),
        "kv_transfer_params": kv_transfer_params,
    }


def events_of(draft: Draft) -> Events:
    """The writer for the surface that was asked."""
    if draft.ask.surface is Surface.MESSAGES:
        return _MessageEvents(draft)
    if draft.ask.surface is Surface.RESPONSES:
        return _ResponseEvents(draft)
    return _CompletionEvents(draft)


def _assistant(text: str) -> Json:
    return {"role": "assistant", "content": text, "refusal": None, "tool_calls": [], "reasoning": None}


class _CompletionEvents:
    """`/v1/chat/completions` and `/v1/completions`: one shape, two names for the text."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._chat = draft.ask.surface is Surface.CHAT
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        head = {"id": draft.id, "object": kind, "created": draft.created_at_s, "model": draft.model}
        self._head = b"data: " + orjson.dumps(head)[:-1]
        field = b'"delta":{"content":' if self._chat else b'"text":'
        self._starts = [
            b'%b,"choices":[{"index":%d,%b' % (self._head, index, field) for index in range(len(draft.pieces))
        ]
        close = b"}" if self._chat else b""
        ending = b'%b,"logprobs":null,"finish_reason":%b%b'
        stop_reason = b"" if self._chat else b',"stop_reason":null'
        self._middle = ending % (close, b"null", stop_reason)
        reason = b'"%b"' % draft.finish_reason.encode()
        self._last = ending % (close, reason, b',"stop_reason":null')
        untold = b',"token_ids":null}]}\n\n'
        if not self._chat:
            untold = b',"prompt_token_ids":null' + untold
        self._untold_middle, self._untold_last = self._middle + untold, self._last + untold
        self._tells_ids = draft.ask.include_token_ids

    def opening(self) -> bytes:
        if not self._chat:
            return b""
        role = (
            b'%b,"choices":[{"index":%d,"delta":{"role":"assistant","content":""},'
            b'"logprobs":null,"finish_reason":null}]%b}\n\n'
        )
        told = self._prompt_ids(0)
        return b"".join(role % (self._head, index, told) for index in range(len(self._draft.pieces)))

    def _prompt_ids(self, choice: int) -> bytes:
        """Where vLLM tells them; null if nobody asked for them."""
        if not self._tells_ids:
            return b',"prompt_token_ids":null'
        prompt = self._draft.ask.prompts[choice // self._draft.ask.choices_per_prompt]
        return b',"prompt_token_ids":' + orjson.dumps(prompt.ids)

    def tokens(self, choice: int, start: int, stop: int) -> bytes:
        pieces = self._draft.pieces[choice]
        begin, middle, final = self._starts[choice], self._untold_middle, len(pieces) - 1
        if self._tells_ids:
            return b"".join(self._with_ids(choice, place, pieces[place]) for place in range(start, stop))
        # The words are plain ASCII letters and hyphens: they need no JSON escaping.
        return b"".join(
            b'%b"%b"%b' % (begin, pieces[place].encode(), self._untold_last if place == final else middle)
            for place in range(start, stop)
        )

    def _with_ids(self, choice: int, place: int, piece: str) -> bytes:
        ending = self._last if place == len(self._draft.pieces[choice]) - 1 else self._middle
        untold = b"" if self._chat else b',"prompt_token_ids":null'
        prompt = self._prompt_ids(choice) if place == 0 and not self._chat else untold
        text, token = piece.encode(), WORD_IDS[piece.strip()]
        return b'%b"%b"%b%b,"token_ids":[%d]}]}\n\n' % (self._starts[choice], text, ending, prompt, token)

    def closing(self) -> bytes:
        if not self._draft.ask.include_usage:
            return b"data: [DONE]\n\n"
        usage = orjson.dumps(self._draft.usage())
        return b'%b,"choices":[],"usage":%b}\n\ndata: [DONE]\n\n' % (self._head, usage)


def _told_prompt(draft: Draft) -> bytes:
    """What the router is told before the first event of an answer, if it asked for that."""
    if not draft.ask.include_token_ids:
        return b""
    return ToldTokens(prompt=tuple(draft.ask.prompts[0].ids)).comment()


def _told(draft: Draft, place: int) -> bytes:
    """What the router is told of a token, if it asked for that."""
    if not draft.ask.include_token_ids:
        return b""
    piece, last = draft.pieces[0][place], place == draft.ask.output_tokens - 1
    return ToldTokens(
        made=(WORD_IDS[piece.strip()],),
        chars=len(piece),
        finish=draft.finish_reason if last else None,
    ).comment()


def _named(kind: str, data: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **data}))


def _message(draft: Draft, *, text: str | None) -> Json:
    ended = text is not None
    return {
        "id": draft.id,
        "type": "message",
        "role": "assistant",
        "model": draft.model,
        "content": [{"type": "text", "text": text}] if ended else [],
        "stop_reason": _stop_reason(draft) if ended else None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": draft.ask.prompt_tokens,
            "output_tokens": draft.output_tokens if ended else 0,
        },
    }


def _stop_reason(draft: Draft) -> str:
    return "max_tokens" if draft.ask.bounded else "end_turn"


class _MessageEvents:
    """`/v1/messages`, Anthropic's events."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def opening(self) -> bytes:
        block = {"index": 0, "content_block": {"type": "text", "text": ""}}
        message = {"message": _message(self._draft, text=None)}
        start = _named("message_start", message) + _named("content_block_start", block)
        return _told_prompt(self._draft) + start

    def tokens(self, choice: int, start: int, stop: int) -> bytes:
        start_of = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
            b'"delta":{"type":"text_delta","text":"'
        )
        pieces = self._draft.pieces[choice]
        return b"".join(
            b'%b%b%b"}}\n\n' % (_told(self._draft, place), start_of, pieces[place].encode())
            for place in range(start, stop)
        )

    def closing(self) -> bytes:
        usage = {"input_tokens": self._draft.ask.prompt_tokens, "output_tokens": self._draft.output_tokens}
        delta = {"stop_reason": _stop_reason(self._draft), "stop_sequence": None}
        return (
            _named("content_block_stop", {"index": 0})
            + _named("message_delta", {"delta": delta, "usage": usage})
            + _named("message_stop", {})
        )


def _response(draft: Draft, *, text: str | None) -> Json:
    ended = text is not None
    cut = ended and draft.ask.bounded
    prompt, output = draft.ask.prompt_tokens, draft.output_tokens
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        },
        "output_tokens": output,
        "output_tokens_details": {
            "reasoning_tokens": 0,
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        },
        "total_tokens": prompt + output,
    }
    return {
        "id": draft.id,
        "object": "response",
        "created_at": draft.created_at_s,
        "model": draft.model,
        "status": "incomplete" if cut else "completed" if ended else "in_progress",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "error": None,
        "output": [_output_item(draft, text=text)] if ended else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "instructions": draft.ask.echo.get("instructions"),
        "metadata": draft.ask.echo.get("metadata"),
        "temperature": draft.ask.echo.get("temperature", 1.0),
        "top_p": draft.ask.echo.get("top_p", 1.0),
        "usage": usage if ended else None,
    }


def _output_item(draft: Draft, *, text: str | None) -> Json:
    return {
        "id": f"{draft.id}-0",
        "type": "message",
        "role": "assistant",
        "status": "in_progress" if text is None else "completed",
        "content": [] if text is None else [_part(text)],
    }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}


class _ResponseEvents:
    """`/v1/responses`: every event carries its place in the stream."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._sequence_number = -1
        self._at = {"output_index": 0, "content_index": 0, "item_id": f"{draft.id}-0"}

    def _event(self, kind: str, data: Json) -> bytes:
        self._sequence_number += 1
        return _named(kind, {"sequence_number": self._sequence_number, **data})

    def opening(self) -> bytes:
        begun = {"response": _response(self._draft, text=None)}
        item = {"output_index": 0, "item": _output_item(self._draft, text=None)}
        return (
            self._event("response.created", begun)
            + self._event("response.in_progress", begun)
            + _told_prompt(self._draft)
            + self._event("response.output_item.added", item)
            + self._event("response.content_part.added", {**self._at, "part": {**_part(""), "logprobs": []}})
        )

    def tokens(self, choice: int, start: int, stop: int) -> bytes:
        event: Callable[[str, Json], bytes] = self._event
        pieces, kind = self._draft.pieces[choice], "response.output_text.delta"
        return b"".join(
            _told(self._draft, place) + event(kind, {**self._at, "delta": pieces[place], "logprobs": []})
            for place in range(start, stop)
        )

    def closing(self) -> bytes:
        text = self._draft.texts[0]
        item = {"output_index": 0, "item": _output_item(self._draft, text=text)}
        return (
            self._event("response.output_text.done", {**self._at, "text": text, "logprobs": []})
            + self._event("response.content_part.done", {**self._at, "part": _part(text)})
            + self._event("response.output_item.done", item)
            + self._event("response.completed", {"response": _response(self._draft, text=text)})
        )
