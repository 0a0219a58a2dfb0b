"""What an answer says, how it ended and what it took, read from its bytes whatever its surface and form.

It exists because only a whole answer that a model ended by itself may be given to others, and because answers
are compared by what they say.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

_ENDED = {"stop", "end_turn", "stop_sequence", "completed"}
_CALLS = ("tool_calls", "function_call", "tool_use")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFacts:
    """What was read of one answer."""

    text: str
    ended: bool
    """By the model, and not at a limit."""
    calls_tools: bool
    output_tokens: int

    @property
    def may_be_shared(self) -> bool:
        """Whether it may be given to somebody who asked in other words."""
        return self.ended and not self.calls_tools and bool(self.text.strip())


def read_answer(body: bytes, content_type: str) -> AnswerFacts | None:
    """The facts of a chat completion, text completion, response or message; None if it is none of them."""
    try:
        events = list(_events(body)) if content_type.startswith("text/event-stream") else [orjson.loads(body)]
    except orjson.JSONDecodeError:
        return None
    texts: list[str] = []
    finishes: list[str] = []
    calls_tools = False
    tokens = 0
    for event in events:
        if not isinstance(event, dict) or "error" in event:
            return None
        texts += _texts(event)
        finishes += _finishes(event)
        calls_tools = calls_tools or any(True for _ in _tool_calls(event))
        tokens = max(tokens, _tokens(event))
    return AnswerFacts(
        text="".join(texts),
        ended=bool(finishes) and all(finish in _ENDED for finish in finishes),
        calls_tools=calls_tools,
        output_tokens=tokens,
    )


def normalised(text: str) -> str:
    """A text without what does not change what it says: case, space and the marks at its end."""
    return " ".join(text.lower().split()).strip(" .!\"'`*")


def _events(body: bytes) -> Iterator[Any]:
    for line in body.split(b"\n"):
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield orjson.loads(line[6:])


def _texts(event: dict[str, Any]) -> Iterator[str]:
    for choice in _dicts(event.get("choices")):
        for holder in (choice.get("message"), choice.get("delta"), choice):
            if isinstance(holder, dict):
                found = holder.get("content") if holder is not choice else choice.get("text")
                if isinstance(found, str):
                    yield found
    for part in _dicts(event.get("content")):
        if isinstance(part.get("text"), str):
            yield part["text"]
    delta = event.get("delta")
    if isinstance(delta, dict) and isinstance(delta.get("text"), str):
        yield delta["text"]
    elif isinstance(delta, str) and event.get("type") == "response.output_text.delta":
        yield delta
    for item in _dicts(event.get("output")):
        for part in _dicts(item.get("content")):
            if isinstance(part.get("text"), str):
                yield part["text"]


def _finishes(event: dict[str, Any]) -> Iterator[str]:
    delta, response = event.get("delta"), event.get("response")
    found = [choice.get("finish_reason") for choice in _dicts(event.get("choices"))]
    found.append(event.get("stop_reason"))
    found.append(delta.get("stop_reason") if isinstance(delta, dict) else None)
    if event.get("type") in {"response.completed", "response.incomplete"} and isinstance(response, dict):
        found.append(response.get("status"))
    elif event.get("object") == "response":
        found.append(event.get("status"))
    return (finish for finish in found if isinstance(finish, str))


def _tool_calls(event: dict[str, Any]) -> Iterator[str]:
    """What in an event calls tools."""
    for choice in _dicts(event.get("choices")):
        for holder in (choice.get("message"), choice.get("delta")):
            if isinstance(holder, dict):
                yield from (name for name in _CALLS if holder.get(name))
    for part in [*_dicts(event.get("content")), *_dicts(event.get("output"))]:
        if part.get("type") in {"tool_use", "function_call"}:
            yield str(part["type"])
    block = event.get("content_block") or event.get("item")
    if isinstance(block, dict) and block.get("type") in {"tool_use", "function_call"}:
        yield str(block["type"])


def _tokens(event: dict[str, Any]) -> int:
    for holder in (event, event.get("response"), event.get("message")):
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            found = usage.get("completion_tokens", usage.get("output_tokens"))
            return found if isinstance(found, int) else 0
    return 0


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
