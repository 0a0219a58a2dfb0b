"""What model routing may know of a request, put together from the parts that others have read."""

import re
from collections.abc import Mapping, Sequence

from cluster.entities.model_routing import Goal, ModelSignals
from cluster.policy.routing.models.categories import CategoryGuess
from cluster.policy.routing.models.complexity import complexity_of

HINT_HEADER_PREFIX = "x-tidemill-hint-"
HINTS_MAX = 8
"""Of more hints, the first by name are taken."""
HINT_CHARS_MAX = 64
"""A longer value is no hint: a part of it would be another hint."""
_HINT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""As rules may name it."""

_NO_CATEGORY = CategoryGuess()


def model_signals(
    *,
    goal: Goal,
    tenant: str,
    user_text: str,
    turns: int,
    tools: bool,
    prompt_tokens: int,
    headers: Mapping[str, str],
    language: str = "und",
    embedding: Sequence[float] = (),
    category: CategoryGuess = _NO_CATEGORY,
) -> ModelSignals:
    """Signals of a request.

    Args:
        goal: that the name of the model stands for.
        tenant: whose request it is.
        user_text: the last text of the user; it is measured and not kept.
        turns: user messages in the conversation.
        tools: whether the request offers tools.
        prompt_tokens: of the whole prompt, possibly estimated.
        headers: of the request, names in lower case.
        language: of the user's text.
        embedding: of the user's text, if there is one.
        category: of the user's text, if there is an embedding.
    """
    return ModelSignals(
        goal=goal,
        tenant=tenant,
        category=category.category,
        category_confidence=category.confidence,
        language=language,
        prompt_tokens=prompt_tokens,
        complexity=complexity_of(user_text),
        turns=turns,
        tools=tools,
        hints=hints_of(headers),
        embedding=tuple(embedding),
    )


def hints_of(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The caller's `x-tidemill-hint-*` headers, sorted by name, bounded in number and length.

    A header that is no hint (its name or value is too long or holds characters that a rule could not name) is
    left out: hints are advice, and bad advice is no reason to refuse a request.
    """
    found: list[tuple[str, str]] = []
    for header in sorted(name for name in headers if name.startswith(HINT_HEADER_PREFIX)):
        name, value = header.removeprefix(HINT_HEADER_PREFIX), headers[header].strip()
        if (
            _HINT_NAME.fullmatch(name)
            and value.isascii()
            and value.isprintable()
            and 0 < len(value) <= HINT_CHARS_MAX
        ):
            found.append((name, value))
    return tuple(found[:HINTS_MAX])
