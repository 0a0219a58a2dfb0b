"""The stream of a replica that goes on with an answer, as the rest of the stream that broke off.

It is always a text completion, whatever the client asked for: what the client gets of it is
`AnswerSoFar`'s to say.
"""

from typing import Any

import orjson

from cluster.entities.workload import Surface
from cluster.policy.continuation import Seam
from deployments.router.generation.continuation import DONE, AnswerSoFar
from deployments.router.generation.stream import BROKEN_OFF, BROKEN_WORDS, Annotate, EventStream
from deployments.router.wire.upstream import ReplicaError


class RestOfStream(EventStream):
    """A continuing replica's text completion, brought into the form of the stream that it continues."""

    def __init__(self, so_far: AnswerSoFar, seam: Seam, *, annotate: Annotate | None) -> None:
        """Start before its first byte."""
        super().__init__(Surface.COMPLETIONS, drop_usage=False)
        self._so_far = so_far
        self._told_annotate = annotate
        self._expected = so_far.repeated(seam)
        self._chars = so_far.sent_chars - seam.repeated_chars
        """Characters of the whole answer that the replica has let go of, or had with the prompt."""
        self._kept_tokens = seam.tokens
        self._usage: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes from the engine and return what the client gets of them now.

        What is no sense, or other text than the client has already, becomes `AnswerSoFar.failure`: what came
        before it counts as sent, and must be.
        """
        out = b""
        for event in super().feed(chunk).split(b"\n\n"):
            try:
                stripped = self._so_far.take_ids(event)
                if self._so_far.failure is None and stripped.strip():
                    out += self._translated(stripped)
            except ReplicaError as error:
                self._so_far.failure = str(error)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self._so_far.failure = f"not a completion's event: {error}"
            if self._so_far.failure is not None:
                break
        return out

    def rest(self) -> bytes:
        """Nothing: half an event cannot be translated."""
        super().rest()
        return b""

    def usage(self) -> dict[str, Any] | None:
        """Usage of the whole answer, each token counted once."""
        return self._usage

    def _translated(self, event: bytes) -> bytes:
        if event.startswith(DONE):
            return self._so_far.done()
        content = orjson.loads(event.removeprefix(b"data: "))
        out = b"".join(self._choice(choice) for choice in content["choices"])
        usage = content.get("usage")
        if isinstance(usage, dict) and not content["choices"]:
            self._usage = self._whole_usage(usage)
            if self._told_annotate is not None:
                self._told_annotate(self._usage)
            out += self._so_far.with_usage(self._usage, annotated=self._told_annotate is not None)
        return out

    def _choice(self, choice: dict[str, Any]) -> bytes:
        text, finish = str(choice.get("text") or ""), choice.get("finish_reason")
        if finish in BROKEN_WORDS:
            raise ReplicaError(BROKEN_OFF, unreachable=False)
        fresh = self._fresh(text, finish)
        if text:
            self._chars += len(text)
            self._so_far.reached(self._so_far.tokens, self._chars)
        if not fresh and finish is None:
            return b""
        self._so_far.sent(fresh)
        self._so_far.finished = finish is not None
        return self._so_far.more(fresh, choice)

    def _fresh(self, text: str, finish: object) -> str:
        """What of a text the client does not have yet."""
        repeated = min(len(text), len(self._expected))
        same = text[:repeated] == self._expected[:repeated]
        self._expected = self._expected[repeated:]
        if not same or (finish is not None and self._expected):
            raise ReplicaError("the answer took another course", unreachable=False)
        return text[repeated:]

    def _whole_usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        prompt_tokens = self._so_far.prompt_tokens
        output_tokens = self._kept_tokens + int(usage.get("completion_tokens") or 0)
        found: dict[str, Any] = {
            **usage,
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + output_tokens,
            "completion_tokens": output_tokens,
        }
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
            cached = min(prompt_tokens, details["cached_tokens"])
            found["prompt_tokens_details"] = {**details, "cached_tokens": cached}
        return found
