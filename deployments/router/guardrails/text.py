"""Where the texts are in the bodies of requests, answers and events, whatever their surface."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.entities.workload import Surface

_TEXT_KEYS = ("content", "refusal", "reasoning_content", "reasoning")
"""Of a chat message or delta, those that are text."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A text within a body: `holder[key]`."""

    holder: Any
    key: str | int
    role: str

    @property
    def text(self) -> str:
        """As it is now."""
        found: str = self.holder[self.key]
        return found

    def put(self, text: str) -> None:
        """Change it."""
        self.holder[self.key] = text


def request_slots(body: dict[str, Any], surface: Surface) -> list[Slot]:
    """The texts of a request. Tools' definitions and ids of tokens are none."""
    if surface is Surface.COMPLETIONS:
        return list(_strings(body, "prompt", "user"))
    slots = [*_content(body, "system", "system"), *_content(body, "instructions", "system")]
    if surface is Surface.RESPONSES:
        given = body.get("input")
        if isinstance(given, str):
            slots.append(Slot(body, "input", "user"))
        elif isinstance(given, list):
            slots += [slot for item in given for slot in _item(item)]
        return slots
    for message in body.get("messages") or ():
        if isinstance(message, dict):
            slots += _content(message, "content", str(message.get("role", "user")))
    return slots


def _item(item: Any) -> Iterator[Slot]:
    if isinstance(item, dict):
        role = str(item.get("role", "tool" if "output" in item else "user"))
        yield from _content(item, "content", role)
        yield from _content(item, "output", role)


def _strings(holder: dict[str, Any], key: str, role: str) -> Iterator[Slot]:
    value = holder.get(key)
    if isinstance(value, str):
        yield Slot(holder, key, role)
    elif isinstance(value, list):
        yield from (Slot(value, place, role) for place, text in enumerate(value) if isinstance(text, str))


def _content(holder: dict[str, Any], key: str, role: str) -> Iterator[Slot]:
    """A string, or a list of parts that have a text or further content."""
    value = holder.get(key)
    if isinstance(value, str):
        yield Slot(holder, key, role)
    elif isinstance(value, list):
        for part in value:
            if isinstance(part, dict):
                inner = "tool" if part.get("type") == "tool_result" else role
                if isinstance(part.get("text"), str):
                    yield Slot(part, "text", inner)
                yield from _content(part, "content", inner)


def answer_slots(answer: Any) -> list[Slot]:
    """The texts of a whole answer, or of an event that repeats whole texts."""
    if not isinstance(answer, dict):
        return []
    slots: list[Slot] = []
    for choice in answer.get("choices") or ():
        if isinstance(choice, dict):
            slots += _strings(choice, "text", "assistant")
            message = choice.get("message")
            if isinstance(message, dict):
                slots += [slot for key in _TEXT_KEYS for slot in _content(message, key, "assistant")]
    for holder in (answer, answer.get("message"), answer.get("response"), answer.get("item")):
        if isinstance(holder, dict):
            slots += _content(holder, "content", "assistant")
            for item in holder.get("output") or ():
                if isinstance(item, dict):
                    slots += [
                        *_content(item, "content", "assistant"),
                        *_content(item, "summary", "assistant"),
                    ]
    part = answer.get("part")
    slots += _strings(part, "text", "assistant") if isinstance(part, dict) else []
    if str(answer.get("type", "")).endswith(".done"):
        slots += _strings(answer, "text", "assistant")
    return slots


def without_tokens(answer: Any) -> None:
    """Take out of an answer or event what tells its texts once more, token by token."""
    if not isinstance(answer, dict):
        return
    for choice in answer.get("choices") or ():
        if isinstance(choice, dict):
            choice |= {key: None for key in ("logprobs", "token_ids") if choice.get(key)}
    response = answer.get("response")
    items = [answer.get("item"), *(answer.get("output") or ())]
    items += (response.get("output") or ()) if isinstance(response, dict) else ()
    parts = [part for item in items if isinstance(item, dict) for part in item.get("content") or ()]
    for holder in (answer, answer.get("part"), *parts):
        if isinstance(holder, dict) and holder.get("logprobs"):
            holder["logprobs"] = []


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a text in an event."""

    slot: Slot
    stream: tuple[Any, ...]
    """Which text it belongs to."""
    last: bool = False
    """Whether the text ends with it."""


def deltas(event: Any, surface: Surface) -> list[Delta]:
    """The pieces of texts that an event carries."""
    if not isinstance(event, dict):
        return []
    if surface in (Surface.CHAT, Surface.COMPLETIONS):
        choices = (choice for choice in event.get("choices") or () if isinstance(choice, dict))
        return [delta for choice in choices for delta in _choice(choice)]
    kind = event.get("type")
    if kind == "content_block_delta" and isinstance(event.get("delta"), dict):
        delta = event["delta"]
        return [
            Delta(Slot(delta, key, "assistant"), (event.get("index"), key))
            for key in ("text", "thinking")
            if isinstance(delta.get(key), str)
        ]
    if kind in ("response.output_text.delta", "response.reasoning_text.delta") and isinstance(
        event.get("delta"), str
    ):
        return [Delta(Slot(event, "delta", "assistant"), _place(event))]
    return []


def _place(event: dict[str, Any]) -> tuple[Any, ...]:
    return event.get("item_id"), event.get("output_index"), event.get("content_index")


def _choice(choice: dict[str, Any]) -> list[Delta]:
    last = choice.get("finish_reason") is not None
    index = choice.get("index", 0)
    if isinstance(choice.get("text"), str):
        return [Delta(Slot(choice, "text", "assistant"), (index, "text"), last)]
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return []
    if last and not isinstance(delta.get("content"), str):
        delta["content"] = ""
    return [
        Delta(Slot(delta, key, "assistant"), (index, key), last)
        for key in _TEXT_KEYS
        if isinstance(delta.get(key), str)
    ]


def ends(event: Any) -> tuple[Any, ...] | None:
    """Which text an event without a piece of it ends (Anthropic, Responses); None for none."""
    if not isinstance(event, dict):
        return None
    kind = event.get("type")
    if kind == "content_block_stop":
        return (event.get("index"),)
    if kind in ("response.output_text.done", "response.reasoning_text.done"):
        return _place(event)
    return None


def rest_event(stream: tuple[Any, ...], text: str, event: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The event that carries the rest of a text before the one that ends it: its name, and what it says."""
    if event.get("type") == "content_block_stop":
        key = stream[1]
        delta = {"type": "thinking_delta" if key == "thinking" else "text_delta", key: text}
        return b"content_block_delta", {"type": "content_block_delta", "index": stream[0], "delta": delta}
    kind = str(event["type"]).removesuffix(".done") + ".delta"
    kept: dict[str, Any] = {
        key: event[key] for key in ("item_id", "output_index", "content_index") if key in event
    }
    number = event.get("sequence_number")
    return kind.encode(), {"type": kind, **kept, "delta": text, "sequence_number": number}
