"""A stored answer in the form that is asked for: whole, or as a stream of events.

It exists because whoever streams and whoever does not share the answers of the semantic tier. Chat and text
completions of one choice are translated; other surfaces keep streams apart (`identify`).
"""

from collections.abc import Iterator
from typing import Any

import orjson

from cluster.entities.workload import Surface

_STREAM = "text/event-stream"
_WHOLE = "application/json"


def in_form(
    body: bytes, content_type: str, *, surface: Surface, stream: bool, usage: bool
) -> tuple[bytes, str] | None:
    """The answer as a stream or whole, with its content type.

    Args:
        body: The stored bytes.
        content_type: Theirs.
        surface: What is asked for.
        stream: As a stream.
        usage: Whether a stream ends with what it used.

    Returns:
        None if it cannot be told in that form.
    """
    is_stream = content_type.startswith(_STREAM)
    if surface not in {Surface.CHAT, Surface.COMPLETIONS}:
        return (body, content_type) if is_stream == stream else None
    if is_stream == stream and (not stream or usage == (b'"usage":{' in body)):
        return body, content_type
    whole = _whole(body, surface) if is_stream else orjson.loads(body)
    if whole is None:
        return None
    if not stream:
        return orjson.dumps(whole), _WHOLE
    return b"".join(_events(whole, surface, usage=usage)), f"{_STREAM}; charset=utf-8"


def _whole(body: bytes, surface: Surface) -> dict[str, Any] | None:
    """One object of a stream's events; None if they are not of one choice."""
    first: dict[str, Any] | None = None
    said: dict[str, Any] = {}
    finish = usage = None
    for line in body.split(b"\n"):
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event = orjson.loads(line[6:])
        first = first or event
        usage = event.get("usage") or usage
        for choice in event.get("choices", ()):
            if choice.get("index", 0) != 0:
                return None
            finish = choice.get("finish_reason") or finish
            part = choice.get("delta", {}) if surface is Surface.CHAT else {"text": choice.get("text", "")}
            for name, value in part.items():
                if isinstance(value, str):
                    said[name] = value if name == "role" else said.get(name, "") + value
    if first is None or finish is None:
        return None
    content = {"message": {"role": "assistant", **said}} if surface is Surface.CHAT else said
    return {
        **{name: first[name] for name in ("id", "created", "model", "system_fingerprint") if name in first},
        "object": "chat.completion" if surface is Surface.CHAT else "text_completion",
        "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": finish}],
        "usage": usage,
    }


def _events(whole: dict[str, Any], surface: Surface, *, usage: bool) -> Iterator[bytes]:
    """The events of one object: what was said, how it ended, and what it used if that is wanted."""
    base: dict[str, Any] = {
        name: whole[name] for name in ("id", "created", "model", "system_fingerprint") if name in whole
    }
    base["object"] = "chat.completion.chunk" if surface is Surface.CHAT else "text_completion"
    choice = whole["choices"][0]
    if surface is Surface.CHAT:
        message = choice["message"]
        parts: list[dict[str, Any]] = [{"delta": {"role": message.get("role", "assistant"), "content": ""}}]
        rest = {name: value for name, value in message.items() if isinstance(value, str) and name != "role"}
        parts += [{"delta": rest}, {"delta": {}}]
    else:
        parts = [{"text": choice.get("text", "")}, {"text": ""}]
    for place, part in enumerate(parts):
        finish = choice.get("finish_reason") if place == len(parts) - 1 else None
        yield _event({**base, "choices": [{"index": 0, **part, "logprobs": None, "finish_reason": finish}]})
    if usage and whole.get("usage"):
        yield _event({**base, "choices": [], "usage": whole["usage"]})
    yield b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
