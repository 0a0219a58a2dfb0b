"""Server-sent events of an engine on their way to a client: relayed byte for byte, watched in passing.

The one thing that is taken out is the usage event that the router itself asked for, because the client did
not. Everything else is only looked at: whether tokens have begun, whether the engine gave up, how it ended.
"""

import json
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import orjson

from cluster.entities.workload import Surface

_TAIL_BYTES_MAX = 256 * 1024
_LAST_EVENTS = 4
"""How many of the last events are looked at for an ending: it may be followed by a [DONE]."""
_HELD_BYTES_MAX = 1024 * 1024
_HEAD_BYTES_MAX = 4096
"""Of an event too long to be kept: its name, and why the answer ended."""
_USAGE = b'"usage":{'
_PREAMBLES = (
    b"event: response.created",
    b"event: response.in_progress",
    b"event: message_start",
    b"event: ping",
)
_ROLE_ONLY = b'"delta":{"role":"assistant","content":""}'
"""Chat's announcement: it comes with the first token, and costs nothing to be held until then."""
ERRORS = (b'data: {"error"', b"event: error", b"event: response.failed")
_ENDINGS = {
    Surface.RESPONSES: (b"event: response.completed", b"event: response.incomplete"),
    Surface.MESSAGES: (b"event: message_stop",),
}


class Finish(StrEnum):
    """Why an answer ended, whatever its surface calls it."""

    WHOLE = "whole"
    CUT = "cut"
    """At a limit of tokens."""
    REFUSED = "refused"
    """Because of its content."""
    BROKEN = "broken"
    """By the engine, in the middle."""


_FINISHES = {
    "length": Finish.CUT,
    "max_tokens": Finish.CUT,
    "max_output_tokens": Finish.CUT,
    "model_context_window_exceeded": Finish.CUT,
    "content_filter": Finish.REFUSED,
    "refusal": Finish.REFUSED,
    "abort": Finish.BROKEN,
    "error": Finish.BROKEN,
}


BROKEN_WORDS = frozenset(word for word, finish in _FINISHES.items() if finish is Finish.BROKEN)
BROKEN_OFF = "it broke the answer off"
"""What is said of a replica whose answer ended with one of them."""
ENDING = b'_reason":"'
"""Only events that end an answer hold it, so that all others cost one look (`rfind` is the fastest)."""

# Quotes inside an answer's text are escaped, so that no answer can look like these.
_BREAKING_OFF = re.compile(rb'"finish_reason":"(?:%b)"' % "|".join(sorted(BROKEN_WORDS)).encode())
_FINISH_WORDS = re.compile(rb'"(?:finish_reason|stop_reason|reason)":\s?"([a-z_]+)"')

Annotate = Callable[[dict[str, Any]], None]
"""Adds to the usage object that a client gets."""


class EventStream:
    """The state of one relayed stream."""

    def __init__(self, surface: Surface, *, drop_usage: bool, annotate: "Annotate | None" = None) -> None:
        """Start before the first byte.

        Args:
            surface: decides how preambles, endings and usage look.
            drop_usage: take the final usage event out (chat and text completions).
            annotate: adds to a usage object in passing.
        """
        self._annotate = annotate
        self._surface = surface
        self._drop_usage = drop_usage
        self._carry = b""
        self._recent: list[bytes] = []
        self._recent_bytes = 0
        self._shortened = False
        self._cut_head = b""
        """How the event begins of which only the end is kept."""
        self.events = 0
        """Events so far: about one a token."""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes from the engine and return what the client gets of them now."""
        self.events += chunk.count(b"data: ")
        self._recent.append(chunk)
        self._recent_bytes += len(chunk)
        if self._recent_bytes > _TAIL_BYTES_MAX:
            self._shorten()
        suspicious = (self._drop_usage or self._annotate is not None) and b'"usage":{' in chunk
        if not self._carry and not suspicious and chunk.endswith(b"\n\n"):
            return chunk
        # Half an event stays here: if the engine breaks off, the client must be able to read the error.
        whole, separator, self._carry = (self._carry + chunk).rpartition(b"\n\n")
        if len(self._carry) > _HELD_BYTES_MAX:
            whole, separator, self._carry = whole + separator + self._carry, b"", b""
        if self._annotate is not None and b'"usage":{' in whole:
            events = [_annotated(event, self._annotate) for event in whole.split(b"\n\n")]
            return b"\n\n".join(events) + separator
        if not self._drop_usage or b'"usage":{' not in whole:
            return whole + separator
        kept = [event for event in whole.split(b"\n\n") if not _is_usage_only(event)]
        return b"".join(event + b"\n\n" for event in kept)

    def _shorten(self) -> None:
        # Rarely and by much, so that a token costs no copy of the tail.
        kept = b"".join(self._recent)
        cut = len(kept) - _TAIL_BYTES_MAX // 2
        cut += kept[cut - 1 : cut + 1] == b"\n\n"  # not between them
        border = kept.rfind(b"\n\n", 0, cut)
        if border >= 0 or not self._shortened:
            begin = border + 2 if border >= 0 else 0
            self._cut_head = kept[begin : begin + _HEAD_BYTES_MAX]
        tail = kept[cut:]
        self._recent, self._recent_bytes, self._shortened = [tail], len(tail), True

    def _last_events(self) -> list[bytes]:
        """The last events; of one that is cut, its beginning."""
        events = self.tail.rsplit(b"\n\n", _LAST_EVENTS)
        if self._shortened and len(events) <= _LAST_EVENTS:
            events[0] = self._cut_head
        return [event.lstrip() for event in events[-_LAST_EVENTS:]]

    @property
    def tail(self) -> bytes:
        """The last bytes from the engine."""
        return b"".join(self._recent)

    @property
    def tail_is_all(self) -> bool:
        """Whether it has sent nothing before them."""
        return not self._shortened

    def rest(self) -> bytes:
        """What is left when the engine has closed the stream."""
        rest, self._carry = self._carry, b""
        return rest

    def ended_well(self) -> bool:
        """Whether the stream was complete."""
        # Only how an event begins counts: what it quotes may look like anything.
        last = self._last_events()
        if not self.tail.endswith((b"\n\n", b"\n\r\n")) or any(event.startswith(ERRORS) for event in last):
            return False
        endings = _ENDINGS.get(self._surface, (b"data: [DONE]",))
        return any(event.startswith(endings) for event in last)

    def finish(self) -> Finish:
        """Why the answer ended, by the last event that says it."""
        found = _FINISH_WORDS.findall(self._cut_head + self.tail)
        return _FINISHES.get(found[-1].decode(), Finish.WHOLE) if found else Finish.WHOLE

    def usage(self) -> dict[str, Any] | None:
        """The usage that the engine reported, if the stream came to that."""
        for line in reversed(self.tail.split(b"\n")):
            if line.startswith(b"data: ") and b'"usage":{' in line:
                try:
                    event = orjson.loads(line[6:])
                except orjson.JSONDecodeError:
                    continue
                found = usage_of(event)
                if found is not None:
                    return found
        return self._cut_usage() if self._shortened else None

    def _cut_usage(self) -> dict[str, Any] | None:
        """The usage in a last event that repeats a long answer before it and so is cut."""
        _, separator, rest = self.tail.rpartition(_USAGE)
        if not separator:
            return None
        try:
            found, _ = json.JSONDecoder().raw_decode("{" + rest.decode("utf-8", "replace"))
        except json.JSONDecodeError:
            return None
        return found if isinstance(found, dict) else None


def cut_broken(events: bytes) -> tuple[bytes, bool]:
    """Whole events up to one by which the engine breaks its answer off, and whether there is one.

    Engines that shut down end their answers so; to a client it would look like any other end.
    """
    found = _BREAKING_OFF.search(events)
    if found is None:
        return events, False
    before, separator, _ = events[: found.start()].rpartition(b"\n\n")
    return before + separator, True


def finish_of(answer: Any) -> Finish:
    """Why a whole answer ended."""
    if not isinstance(answer, dict):
        return Finish.WHOLE
    incomplete = answer.get("incomplete_details")
    choices = answer.get("choices")
    words = [answer.get("stop_reason"), incomplete.get("reason") if isinstance(incomplete, dict) else None]
    if isinstance(choices, list):
        words += [choice.get("finish_reason") for choice in choices if isinstance(choice, dict)]
    return next(
        (_FINISHES[word] for word in words if isinstance(word, str) and word in _FINISHES), Finish.WHOLE
    )


def usage_of(answer: Any) -> dict[str, Any] | None:
    """Usage of an answer or event, wherever its surface puts it."""
    if not isinstance(answer, dict):
        return None
    for holder in (answer, answer.get("response"), answer.get("message")):
        if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
            usage: dict[str, Any] = holder["usage"]
            return usage
    return None


def has_begun(held: bytes) -> bool:
    """Whether a stream's first bytes hold more than announcements, so that it cannot start over elsewhere."""
    if len(held) > _HELD_BYTES_MAX:
        return True
    whole, _, _ = held.rpartition(b"\n\n")
    events = [event for event in whole.split(b"\n\n") if event.strip()]
    return any(not event.lstrip().startswith(_PREAMBLES) and _ROLE_ONLY not in event for event in events)


def is_error(held: bytes) -> bool:
    """Whether a stream's first event is the engine's failure."""
    return held.lstrip().startswith(ERRORS) or any(b"\n\n" + error in held for error in ERRORS)


def _annotated(event: bytes, annotate: Annotate) -> bytes:
    """An event with its usage added to; the event itself if it has none."""
    if b'"usage":{' not in event:
        return event
    lines = event.split(b"\n")
    for place, line in enumerate(lines):
        if not line.startswith(b"data: "):
            continue
        try:
            content = orjson.loads(line[6:])
        except orjson.JSONDecodeError:
            continue
        usage = usage_of(content)
        if usage is not None:
            annotate(usage)
            lines[place] = b"data: " + orjson.dumps(content)
    return b"\n".join(lines)


def _is_usage_only(event: bytes) -> bool:
    return b'"choices":[]' in event and b'"usage":{' in event


def tokens_in(usage: dict[str, Any] | None) -> tuple[int | None, int | None, int | None]:
    """Prompt, cached prompt and output tokens of a usage object in OpenAI's or Anthropic's words."""
    if usage is None:
        return None, None, None
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    output = _count(usage, "completion_tokens", "output_tokens")
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else None
    read = _count(usage, "cache_read_input_tokens")
    if read is not None and prompt is not None:  # Anthropic counts cached tokens apart
        prompt, cached = prompt + read, read
    return prompt, cached, output


def _count(holder: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = holder.get(name)
        if isinstance(value, int):
            return value
    return None
