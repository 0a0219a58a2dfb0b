"""Whether another replica can go on with an answer that broke off, and from which token.

The other replica gets the prompt and the tokens that were made as one prompt. What it makes then is what the
first one would have made (exactly so for greedy answers), as long as nothing but these tokens decides it:
that excludes whatever an engine keeps beside them, such as the state of a grammar.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cluster.entities.workload import Surface

STOP_CHARS_MAX = 512
"""Longest stop string of an answer that is taken up; no more of its text is kept for comparison."""


class NotContinued(StrEnum):
    """Why an answer that breaks off is not taken up by another replica."""

    SWITCHED_OFF = "switched_off"
    SURFACE = "surface"
    SEVERAL_SEQUENCES = "several_sequences"
    LOGPROBS = "logprobs"
    TOOLS = "tools"
    GRAMMAR = "grammar"
    COUNTED_OUTPUT = "counted_output"
    NOT_TEXT = "not_text"
    IDS = "ids"
    TOO_LONG = "too_long"


_TOOLS = ("tools", "functions")
_GRAMMARS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
_COUNTING = (
    *("presence_penalty", "frequency_penalty", "thinking_token_budget", "repetition_detection"),
    *("include_stop_str_in_output", "truncate_prompt_tokens"),
)
"""What looks at the answer as a whole and takes its first half for prompt; or changes the prompt again."""
_IDS = ("return_token_ids", "return_prompt_text", "enable_response_messages")
_KEPT_BY_ONE_ENGINE = ("previous_response_id", "background")
_FORMATS = (("response_format",), ("text", "format"), ("output_config", "format"))
_TEXTS = {"text", "input_text", "output_text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """A place between two tokens: after so many of them the text has so many characters."""

    tokens: int
    chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """Where the other replica begins."""

    tokens: int
    """Tokens of the answer that it gets with the prompt."""
    repeated_chars: int
    """Characters that it makes first and the client has already."""


def not_continued(surface: Surface, body: Mapping[str, Any], *, one_sequence: bool) -> NotContinued | None:
    """Why a request's stream could not be taken up; None if it could.

    Args:
        surface: what was asked.
        body: the request.
        one_sequence: whether it has one prompt and asks for one plain answer.
    """
    stop = stop_strings(body)
    elsewhere = not surface.generates or any(body.get(name) for name in _KEPT_BY_ONE_ENGINE)
    plain = all(_is_plain(body, path) for path in _FORMATS)
    text = _is_text(body.get("messages")) and _is_text(body.get("input"))
    grounds = (
        (NotContinued.SURFACE, elsewhere),
        (NotContinued.SEVERAL_SEQUENCES, not one_sequence),
        (NotContinued.LOGPROBS, _wants_logprobs(body)),
        (NotContinued.TOOLS, any(body.get(name) for name in _TOOLS)),
        (NotContinued.GRAMMAR, not plain or any(body.get(name) for name in _GRAMMARS)),
        (NotContinued.COUNTED_OUTPUT, any(body.get(name) for name in _COUNTING) or _counts_aloud(body)),
        (NotContinued.NOT_TEXT, bool(body.get("prompt_embeds")) or not text),
        (NotContinued.IDS, any(body.get(name) for name in _IDS)),
        (NotContinued.TOO_LONG, any(len(text) > STOP_CHARS_MAX for text in stop)),
    )
    return next((ground for ground, holds in grounds if holds), None)


def stop_strings(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The request's stop strings, whichever form they are in."""
    stop = body.get("stop") or body.get("stop_sequences")
    given = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    return tuple(text for text in given if isinstance(text, str))


def held_chars(stop: Sequence[str]) -> int:
    """Characters that an engine holds back because a stop string may begin in them (as vLLM does)."""
    return max((len(text) - 1 for text in stop), default=0)


def find_seam(boundaries: Iterable[Boundary], *, sent_chars: int) -> Seam | None:
    """The last boundary of which the client has all text; None if none is known.

    Tokens beyond it are made again: of some the client has only a part, of others nothing yet, because a
    character needs several tokens or a stop string may begin there.
    """
    reached = [boundary for boundary in boundaries if boundary.chars <= sent_chars]
    if not reached:
        return None
    last = max(reached, key=lambda boundary: boundary.tokens)
    return Seam(tokens=last.tokens, repeated_chars=sent_chars - last.chars)


def _wants_logprobs(body: Mapping[str, Any]) -> bool:
    asked = not (body.get("logprobs") is None or body.get("logprobs") is False)
    include = body.get("include")
    return asked or (isinstance(include, list) and "message.output_text.logprobs" in include)


def _is_plain(body: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether a request leaves the answer's format open: none is asked for, or text."""
    found: Any = body
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return not isinstance(found, dict) or found.get("type") == "text"


def _counts_aloud(body: Mapping[str, Any]) -> bool:
    """Whether every event of the stream is to carry usage, or thinking has a budget of its own."""
    options, thinking = body.get("stream_options"), body.get("thinking")
    aloud = isinstance(options, dict) and bool(options.get("continuous_usage_stats"))
    return aloud or (isinstance(thinking, dict) and thinking.get("type") == "enabled")


def _is_text(turns: Any) -> bool:
    """Whether a conversation holds nothing but text: images are no tokens that could be sent again."""
    found = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    contents = [turn.get("content") for turn in found if turn.get("type", "message") == "message"]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    kinds = [part.get("type", "text") if isinstance(part, dict) else None for part in parts]
    return len(contents) == len(found) and all(kind in _TEXTS for kind in kinds)
