"""Which requests may be answered by a near match, and which answers may be kept for one.

It exists because the worst hits are right in every word and wrong for the asker: answers about one person,
about this minute, half answers and answers that call tools.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from cluster.config.semantic_cache import SemanticTierConfig
from cluster.policy.semantic_cache.identity import SemanticIdentity

_TOOLS = ("tools", "functions", "tool_choice", "function_call")
_PERSONAL = re.compile(
    r"(?<![\w.+-])[\w.+-]+@[\w-]+\.\w+|\+?\d[\d\s().-]{8,}\d|\bmy name is\b|\bwho am i\b|\bi live (?:at|in)\b"
    r"|\bmy (?:address|birthday|email|password|ssn|phone number) is\b",
    re.IGNORECASE,
)
"""Addresses, long numbers and introductions: what makes an answer one person's. An address is looked for only
where a word begins: at every letter, the time would grow with the square of the longest word."""
_MOMENTARY = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|right now|currently|at the moment|latest|"
    r"this (?:morning|week|month|year)|what time is it|what(?:'s| is) the (?:time|date))\b",
    re.IGNORECASE,
)
"""What is right at one moment only."""


class Refusal(StrEnum):
    """Why near matches are not asked (label of `tidemill_cache_semantic_refusals_total`)."""

    TOOLS = "tools"
    TURNS = "turns"
    SHORT = "short"
    PERSONAL = "personal"
    MOMENTARY = "momentary"
    SEVERAL_CHOICES = "several_choices"
    NO_TEXT = "no_text"


def request_refusal(
    body: Mapping[str, Any], identity: SemanticIdentity | None, config: SemanticTierConfig
) -> Refusal | None:
    """Why a request that the exact tier may answer is none for near matches; None if it is one."""
    if identity is None:
        return Refusal.NO_TEXT
    text = identity.text
    grounds = (
        (Refusal.TOOLS, any(body.get(name) for name in _TOOLS) or _holds_tool_turns(body)),
        (Refusal.SEVERAL_CHOICES, body.get("n") not in {None, 1} or bool(body.get("logprobs"))),
        (Refusal.TURNS, identity.turns > config.turns_max),
        (Refusal.SHORT, len(text.strip()) < config.text_chars_min),
        (Refusal.PERSONAL, _PERSONAL.search(text) is not None),
        (Refusal.MOMENTARY, _MOMENTARY.search(text) is not None),
    )
    return next((refusal for refusal, holds in grounds if holds), None)


def _holds_tool_turns(body: Mapping[str, Any]) -> bool:
    turns = body.get("messages") or body.get("input")
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and (turn.get("role") in {"tool", "function"} or turn.get("tool_calls"))
        for turn in turns
    )
