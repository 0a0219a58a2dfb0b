"""Signs that a text wants to take over: heuristics, cheap and easily evaded, for a first line of defence.

Each sign has a weight, and signs add up as independent doubts do: 1 - product(1 - weight). One strong sign or
two weaker ones reach the default threshold. Texts are looked at as a reader sees them: without marks of zero
width, with letters that only look different made equal.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

THRESHOLD = 0.8
PIECE_CHARS = 16_384
"""A longer text is looked at piece by piece, so that something else can be done in between."""
_OVERLAP_CHARS = 512
"""Of a piece with the next: longer than any sign, so that none falls between them."""

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\U000e0000-\U000e007f]")
_OF_INSTRUCTIONS = r"(?:instructions?|prompts?|rules?|directions?|guidelines?|commands?)"
_VERB_OF_TELLING = r"\b(?:reveal|print|show|repeat|output|display|leak|tell me)\b"
_NO_LIMITS = (
    r"(?:dan|jailbroken|unrestricted|unfiltered|developer mode|no (?:rules|restrictions|limits|filters?))"
)
_SIGNS: tuple[tuple[str, float, re.Pattern[str]], ...] = (
    (
        "ignore_instructions",
        0.85,
        re.compile(
            r"\b(?:ignore|disregard|forget|override|bypass)\b[^.!?\n]{0,40}"
            r"\b(?:previous|prior|above|earlier|preceding|all|any|your|system)\b[^.!?\n]{0,30}"
            r"\b" + _OF_INSTRUCTIONS
        ),
    ),
    (
        "ignore_instructions_translated",
        0.85,
        re.compile(
            r"\b(?:ignoriere?|vergiss|ignora|olvida|ignorez|oubliez?)\b[^.!?\n]{0,40}"
            r"(?:anweisung|anleitung|regeln|instrucciones|reglas|instructions|consignes|istruzioni)"
        ),
    ),
    (
        "reveal_prompt",
        0.6,
        re.compile(
            _VERB_OF_TELLING + r"[^.!?\n]{0,40}\b(?:system|hidden|initial|secret|original|developer)\b"
            r"[^.!?\n]{0,20}\b(?:prompt|message|instructions?)"
        ),
    ),
    (
        "new_role",
        0.6,
        re.compile(
            r"\b(?:you are now|from now on,? you|pretend (?:to be|you are)|act as)\b[^.!?\n]{0,60}"
            r"\b" + _NO_LIMITS + r"\b"
        ),
    ),
    (
        "jailbreak_words",
        0.6,
        re.compile(r"\b(?:do anything now|jailbreak(?:ed)?|developer mode enabled|sudo mode)\b"),
    ),
    (
        "role_marks",
        0.85,
        re.compile(
            r"<\|(?:im_start|im_end|system|assistant|start_header_id|eot_id)\|>|\[/?inst\]|<</?sys>>"
            r"|^[ \t]{0,8}#{2,4} {0,4}(?:system|assistant|new instructions?) {0,4}:",
            re.MULTILINE,
        ),
    ),
    (
        "hidden_payload",
        0.6,
        re.compile(
            r"\b(?:execute|follow|obey)\b[^.!?\n]{0,40}\bbase64\b"
            r"|\bbase64\b[^.!?\n]{0,40}\b(?:execute|follow|obey)\b"
        ),
    ),
    (
        "no_telling",
        0.4,
        re.compile(r"\b(?:do not|don't|never)\b[^.!?\n]{0,20}\b(?:tell|inform|mention to) the user\b"),
    ),
)
_INVISIBLE_WEIGHT = 0.5
_INVISIBLE_MIN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """What was found in a text."""

    score: float
    """0 to 1."""
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen in a piece of a text."""

    signs: frozenset[str]
    invisible: int
    """Characters that nobody sees."""


def pieces(text: str) -> range:
    """Where the pieces of a text begin."""
    return range(0, max(1, len(text)), PIECE_CHARS)


def look(text: str, start: int) -> Look:
    """What is to be seen in the piece of a text that begins there."""
    end = start + PIECE_CHARS
    piece = text[start : end + _OVERLAP_CHARS]
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", piece)).casefold()
    # Where a text is cut no word ends, and no line begins.
    if start > 0 and text[start - 1] != "\n":
        plain = "x " + plain
    if end + _OVERLAP_CHARS < len(text):
        plain += "x"
    return Look(
        signs=frozenset(name for name, _, pattern in _SIGNS if pattern.search(plain)),
        invisible=len(_INVISIBLE.findall(text, start, end)),
    )


def suspicion(looks: Iterable[Look]) -> Suspicion:
    """What all pieces of a text together amount to."""
    seen: set[str] = set()
    invisible = 0
    for found in looks:
        seen |= found.signs
        invisible += found.invisible
    weights = {name: weight for name, weight, _ in _SIGNS if name in seen}
    if invisible >= _INVISIBLE_MIN:
        weights["invisible_marks"] = _INVISIBLE_WEIGHT
    trust = 1.0
    for weight in weights.values():
        trust *= 1.0 - weight
    return Suspicion(score=1.0 - trust, signs=tuple(weights))
