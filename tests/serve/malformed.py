"""A hundred requests that are wrong, each in a way of its own."""

import json
from collections.abc import Iterator
from typing import Any

_CHAT, _TEXT, _RESPONSES, _MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
_NOT_JSON_OBJECTS = (
    b"",
    b"{",
    b"[]",
    b"1",
    b"null",
    b'"x"',
    b"\xff\xfe{}",
    b'{"model": "\xc3\x28"}',
    b"[" * 5000,
    b"{}{}",
)
_HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
_NOT_MESSAGES: list[Any] = [[], {}, "hi", 7, [7], [{}], [{"role": 7}], [{"content": "hi"}], [None], True]
_NOT_COUNTS: list[Any] = [-1, "many", 1.5, True, [], {}]
_WRONG: list[tuple[str, dict[str, Any], str, list[Any]]] = [
    (_CHAT, _HELLO, "max_tokens", _NOT_COUNTS),
    (_TEXT, {"prompt": "hi"}, "max_tokens", _NOT_COUNTS),
    (_CHAT, _HELLO, "temperature", ["hot", -1, 1e9, [], {}]),
    (_CHAT, {}, "messages", _NOT_MESSAGES),
    (_MESSAGES, {"max_tokens": 4}, "messages", _NOT_MESSAGES),
    (_TEXT, {"max_tokens": 4}, "prompt", [[], {}, 7, None, [[]], [["a"]], [None], True]),
    (_RESPONSES, {}, "input", [None, 7, "", [], {}]),
    (_CHAT, _HELLO, "model", ["nope", 7]),
    (_CHAT, _HELLO, "n", [0, "two"]),
    (_CHAT, _HELLO, "stream", ["yes"]),
    (_CHAT, _HELLO, "stream_options", ["usage"]),
    (_CHAT, _HELLO, "top_p", [7]),
    (_CHAT, _HELLO, "stop", [7]),
    (_CHAT, _HELLO, "logprobs", ["all"]),
    (_CHAT, _HELLO, "top_logprobs", [-3]),
    (_CHAT, _HELLO, "tools", ["hammer"]),
    (_CHAT, _HELLO, "tool_choice", ["required"]),
    (_CHAT, _HELLO, "response_format", [{"type": "poem"}]),
    (_CHAT, _HELLO, "presence_penalty", [99]),
    (_CHAT, _HELLO, "logit_bias", [{"x": "y"}]),
    (_CHAT, {}, "messages", [[{"role": "user", "content": "tide " * 9000}]]),
    (_TEXT, {"max_tokens": 4}, "prompt", ["tide " * 9000]),
]


def malformed_requests(model: str) -> Iterator[tuple[str, bytes]]:
    """Path and body of each."""
    for path in (_CHAT, _TEXT, _RESPONSES, _MESSAGES):
        for body in _NOT_JSON_OBJECTS:
            yield path, body
    for path, rest, field, values in _WRONG:
        for value in values:
            yield path, json.dumps({"model": model, **rest, field: value}).encode()
    yield _CHAT, b'{"messages": "' + b"x" * (9 * 1024 * 1024) + b'"}'
