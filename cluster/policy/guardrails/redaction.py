"""Personal data in text: what can be recognised by its form, in whole texts and in pieces of a stream.

Every pattern is bounded in length and has one way to match, so that no text makes it slow. Numbers that have
a check digit must pass it, because most long numbers are no cards. Names and places have no form; they need
a recogniser that was trained (docs/tenants.md).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,4}"
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?!\d)")
_SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_PHONE = re.compile(r"(?<![\w+])(?:\+\d(?:[ ().-]{0,2}\d){6,14}|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?!\d)")
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d|\.\d)")

# What may still become a match when more text comes: the word that is being written, or a run that began as
# a number or an IBAN, spaces included.
_WORD_TAIL = re.compile(r"\S+\Z")
_NUMBER_TAIL = re.compile(r"(?:[A-Z]{2}\d{2}|[+(]|\d)[A-Z0-9 ().+-]*\Z")
_WORD_CHARS_MAX = 400
_NUMBER_CHARS_MAX = 80
HELD_CHARS_MAX = max(_WORD_CHARS_MAX, _NUMBER_CHARS_MAX)
"""More is never held back of a stream."""

_DIGITS = str.maketrans("", "", " -")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A place in a text that is to be hidden."""

    start: int
    end: int
    label: str


def _is_luhn(text: str) -> bool:
    digits = [int(digit) for digit in text.translate(_DIGITS)]
    doubled = [
        digit if place % 2 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits[::-1], 1)
    ]
    return sum(doubled) % 10 == 0 and len(set(digits)) > 1


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "")
    return int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1


def _is_ipv4(text: str) -> bool:
    return all(int(part) <= 255 for part in text.split("."))


_KINDS = (
    ("EMAIL", _EMAIL, None),
    ("IBAN", _IBAN, _is_iban),
    ("CARD", _CARD, _is_luhn),
    ("SSN", _SSN, None),
    ("IP", _IPV4, _is_ipv4),
    ("PHONE", _PHONE, None),
)
LABELS = tuple(kind[0] for kind in _KINDS)


def find(text: str, labels: Sequence[str] = LABELS, *, start: int = 0) -> list[Span]:
    """Personal data by its form.

    Args:
        text: where to look.
        labels: what to look for.
        start: nothing before it is found, but it is looked at as what stands before.
    """
    if not any(sign.isdigit() for sign in text) and "@" not in text:
        return []
    spans = [
        Span(start=match.start(), end=match.end(), label=label)
        for label, pattern, check in _KINDS
        if label in labels
        for match in pattern.finditer(text, start)
        if check is None or check(match.group())
    ]
    return apart(spans)


def apart(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, of overlapping ones the earliest and longest."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not found or span.start >= found[-1].end:
            found.append(span)
    return found


def hide(text: str, spans: Iterable[Span]) -> str:
    """The text with labels in the place of spans, which are in order and apart."""
    parts: list[str] = []
    place = 0
    for span in spans:
        parts += [text[place : span.start], f"[{span.label}]"]
        place = span.end
    return "".join([*parts, text[place:]])


class StreamRedactor:
    """Hides what comes in pieces: holds back what may still become a match, and no more."""

    def __init__(self, labels: Sequence[str] = LABELS) -> None:
        """Nothing has come yet."""
        self._labels = labels
        self._before = ""
        """The last character that was let go, for patterns that look at what stands before."""
        self._held = ""
        self.hidden = 0
        """Places that were hidden."""

    def feed(self, text: str) -> str:
        """Take a piece; what may be sent of what has come."""
        self._held += text
        return self._release(len(self._held) - self._tail_chars())

    def end(self) -> str:
        """What is left when no more comes."""
        return self._release(len(self._held))

    def _tail_chars(self) -> int:
        word = _WORD_TAIL.search(self._held, max(0, len(self._held) - _WORD_CHARS_MAX))
        number = _NUMBER_TAIL.search(self._held, max(0, len(self._held) - _NUMBER_CHARS_MAX))
        starts = [match.start() for match in (word, number) if match is not None]
        if not starts:
            return 0
        start = min(starts)
        # A number inside a word, or a word before a number without a space between them, is one run.
        while start > 0 and not self._held[start - 1].isspace() and len(self._held) - start < HELD_CHARS_MAX:
            start -= 1
        return len(self._held) - start

    def _release(self, length: int) -> str:
        if length <= 0:
            return ""
        text = self._before + self._held
        spans = find(text, self._labels, start=len(self._before))
        cut = len(self._before) + length
        for span in spans:
            if span.start < cut < span.end:
                cut = span.end if span.end - span.start < HELD_CHARS_MAX and span.end < len(text) else cut
        kept = [span for span in spans if span.end <= cut]
        self.hidden += len(kept)
        released = hide(text[:cut], kept)[len(self._before) :]
        self._held = text[cut:]
        self._before = text[cut - 1 : cut]
        return released
