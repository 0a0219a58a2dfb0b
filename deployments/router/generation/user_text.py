"""The words of a request that say what it is about: what the user said, last and before.

Neither the system prompt, which many requests share, counts, nor what tools returned.
"""

from typing import Any

from cluster.entities.workload import Surface

TEXT_CHARS_MAX = 16_384
"""The sentence encoder reads no more (256 tokens); the end of a longer text is not looked at."""


def user_texts(body: dict[str, Any], surface: Surface) -> list[str]:
    """The texts of the user's messages, first to last; the prompt itself where there are no messages."""
    if surface is Surface.COMPLETIONS:
        prompt = body.get("prompt")
        parts = prompt if isinstance(prompt, list) else [prompt]
        return [part for part in parts if isinstance(part, str)][-1:]
    if surface is Surface.RESPONSES:
        given = body.get("input")
        if isinstance(given, str):
            return [given]
        return _of_user(given)
    return _of_user(body.get("messages"))


def last_user_text(body: dict[str, Any], surface: Surface) -> str:
    """What the user said last; empty if nothing of it is text."""
    texts = user_texts(body, surface)
    return texts[-1][:TEXT_CHARS_MAX] if texts else ""


def _of_user(messages: Any) -> list[str]:
    if not isinstance(messages, list):
        return []
    found = [
        _text(message.get("content"))
        for message in messages
        if isinstance(message, dict) and message.get("role") == "user"
    ]
    return [text for text in found if text]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))
