"""The text of a request's prompt, on every surface: what its length and its prefix hashes are taken from.

Apart from the rest of a request because a prompt may be millions of numbers long: nothing here looks at them
one by one in Python.
"""

from array import array
from typing import Any

import numpy as np
import orjson

from cluster.entities.workload import Surface
from deployments.router.wire.errors import bad_request

_ID_MASK = 0xFFFFFFFF


def prompt_of(body: dict[str, Any], surface: Surface) -> tuple[bytes, int | None, bool]:
    """The prompt's bytes, its exact length if known, and whether it is one prompt.

    Raises:
        ApiError: 400, it has no known form.
    """
    match surface:
        case Surface.CHAT | Surface.MESSAGES | Surface.COUNT_TOKENS:
            return _messages(body), None, True
        case Surface.RESPONSES:
            return _responses(body)
        case Surface.COMPLETIONS:
            return _completion_prompt(body.get("prompt"))
        case _:
            return b"", None, False


def _messages(body: dict[str, Any]) -> bytes:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("`messages` must be a non-empty array.", param="messages")
    parts: list[bytes] = []
    if body.get("tools"):
        parts.append(orjson.dumps(body["tools"]))
    _text(body.get("system"), parts)
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            raise bad_request(f"`{place}` must be an object.", param=place)
        if not isinstance(message.get("role"), str):
            raise bad_request(f"`{place}.role` must be a string.", param=f"{place}.role")
        parts.append(_encode(message["role"]))
        _text(message.get("content"), parts)
        if message.get("tool_calls"):
            parts.append(orjson.dumps(message["tool_calls"]))
    return b"\n".join(parts)


def _responses(body: dict[str, Any]) -> tuple[bytes, int | None, bool]:
    given = body.get("input")
    if not isinstance(given, str | list) or not given:
        raise bad_request("`input` must be a non-empty string or array.", param="input")
    parts: list[bytes] = []
    _text(body.get("instructions"), parts)
    if isinstance(given, str):
        parts.append(_encode(given))
    else:
        for item in given:
            _text(item.get("content") if isinstance(item, dict) else item, parts)
    # What an earlier response said lives in one engine only, and a stored one must be found again there.
    alone = body.get("previous_response_id") is None and not body.get("background")
    return b"\n".join(parts), None, alone


def _completion_prompt(prompt: Any) -> tuple[bytes, int | None, bool]:
    if isinstance(prompt, str):
        return _encode(prompt), None, True
    if isinstance(prompt, list) and prompt:
        kinds = set(map(type, prompt))
        if kinds == {int}:
            return _ids(prompt), len(prompt), True
        if kinds == {str}:
            return b"\n".join(map(_encode, prompt)), None, len(prompt) == 1
        if kinds == {list} and all(set(map(type, item)) <= {int} for item in prompt):
            return b"".join(map(_ids, prompt)), sum(map(len, prompt)), len(prompt) == 1
    raise bad_request(
        "`prompt` must be a string, an array of strings, an array of token ids, or an array of those.",
        param="prompt",
    )


def _ids(ids: list[int]) -> bytes:
    """Four bytes of each."""
    try:
        numbers = array("q", ids)
    except OverflowError:  # no token's, and for the engine to refuse
        numbers = array("q", [token & _ID_MASK for token in ids])
    return np.frombuffer(numbers, dtype=np.int64).astype("<u4").tobytes()


def _text(content: Any, parts: list[bytes]) -> None:
    """Append the text of a message's content; images and audio have no bytes that count as prompt."""
    if isinstance(content, str):
        parts.append(_encode(content))
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                parts.append(_encode(part["text"]))
            elif isinstance(part, dict) and "content" in part:
                _text(part["content"], parts)


def _encode(text: str) -> bytes:
    return text.encode()  # orjson has refused lone surrogates already, as vLLM would
