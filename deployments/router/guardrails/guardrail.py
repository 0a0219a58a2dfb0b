"""What a guardrail is: the interface for one's own, and the two that are built in.

A guardrail sees texts, not HTTP: the same one serves every surface. It may be slow (a model, a service)
before a request and after a whole answer, where it is given a bounded time. On a stream it is asked for every
piece and has to answer at once; what it holds back must be bounded.
"""

import asyncio
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cluster.policy.guardrails.injection import (
    PIECE_CHARS,
    THRESHOLD,
    Look,
    Suspicion,
    look,
    pieces,
    suspicion,
)
from cluster.policy.guardrails.redaction import LABELS, Span, StreamRedactor, apart, find, hide

_UNTRUSTED = frozenset({"user", "tool", "function"})


class BlockedError(Exception):
    """The guardrail refuses; the message is what the client is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One text of a request or answer."""

    role: str
    """`system`, `user`, `assistant`, `tool`, or what else the client calls it."""
    text: str


class StreamFilter(Protocol):
    """What one guardrail does to one text that comes in pieces."""

    def feed(self, text: str) -> str:
        """Take a piece; what may be sent now.

        Raises:
            BlockedError: the answer ends here.
        """

    def end(self) -> str:
        """What is left when the text is complete."""


class Guardrail(Protocol):
    """Looks at texts, and changes or refuses them."""

    async def before_request(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        """The passages as the model gets them: as many, in the same order.

        Raises:
            BlockedError: the request is refused.
        """

    async def after_response(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        """The passages of a whole answer as the client gets them.

        Raises:
            BlockedError: the answer is not sent.
        """

    def on_stream(self) -> StreamFilter | None:
        """A filter for one text of a streamed answer; None leaves streams as they are."""


Recogniser = Callable[[str], Iterable[tuple[int, int, str]]]
"""Start, end and label of every name in a text."""


class PersonalData:
    """Hides personal data: by its form, and by a recogniser of names where one is given.

    Args:
        labels: what is looked for by form.
        requests: whether requests are changed.
        answers: whether answers are.
        recogniser: `package.module:factory` of a function from a text to (start, end, label), such as a
            trained model; asked in a thread, for whole texts only.
    """

    def __init__(
        self,
        *,
        labels: Sequence[str] = LABELS,
        requests: bool = True,
        answers: bool = True,
        recogniser: str | None = None,
    ) -> None:
        unknown = set(labels) - set(LABELS)
        if unknown:
            raise ValueError(f"labels: {min(unknown)!r} is not among {', '.join(LABELS)}")
        self._labels = tuple(labels)
        self._requests = requests
        self._answers = answers
        self._recognise: Recogniser | None = None if recogniser is None else imported(recogniser)()

    async def before_request(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        """See `Guardrail`."""
        return await self._hidden(passages) if self._requests else passages

    async def after_response(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        """See `Guardrail`."""
        return await self._hidden(passages) if self._answers else passages

    def on_stream(self) -> StreamFilter | None:
        """See `Guardrail`."""
        return StreamRedactor(self._labels) if self._answers else None

    async def _hidden(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        if self._recognise is None:
            return [replace(p, text=await self._hide(p.text)) for p in passages]
        return await asyncio.to_thread(lambda: [self._named(passage) for passage in passages])

    async def _hide(self, text: str) -> str:
        if len(text) <= PIECE_CHARS:
            return hide(text, find(text, self._labels))
        redactor, hidden = StreamRedactor(self._labels), []
        for start in pieces(text):
            hidden.append(redactor.feed(text[start : start + PIECE_CHARS]))
            await asyncio.sleep(0)  # a long text must not hold up everybody's streams
        return "".join([*hidden, redactor.end()])

    def _named(self, passage: Passage) -> Passage:
        assert self._recognise is not None  # noqa: S101 - only asked then
        names = [Span(start=s, end=e, label=label) for s, e, label in self._recognise(passage.text)]
        spans = apart([*find(passage.text, self._labels), *names])
        return replace(passage, text=hide(passage.text, spans))


class PromptInjection:
    """Refuses requests whose user or tool texts look as if they wanted to take over.

    Args:
        threshold: suspicion from which a request is refused, 0 to 1.
    """

    def __init__(self, *, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold

    async def before_request(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        """See `Guardrail`."""
        for passage in passages:
            if passage.role in _UNTRUSTED:
                found = await _suspect(passage.text)
                if found.score >= self._threshold:
                    raise BlockedError(f"The request looks like prompt injection ({', '.join(found.signs)}).")
        return passages

    async def after_response(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        """See `Guardrail`."""
        return passages

    def on_stream(self) -> StreamFilter | None:
        """See `Guardrail`."""
        return None


async def _suspect(text: str) -> Suspicion:
    looks: list[Look] = []
    for start in pieces(text):
        if start:
            await asyncio.sleep(0)  # a long text must not hold up everybody's streams
        looks.append(look(text, start))
    return suspicion(looks)


_BUILT_IN: dict[str, Callable[..., Guardrail]] = {"pii": PersonalData, "prompt_injection": PromptInjection}


def imported(path: str) -> Any:
    """What `package.module:name` names.

    Raises:
        ValueError: nothing.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path!r} cannot be imported: {error}") from error


def make(use: str, options: dict[str, Any]) -> Guardrail:
    """A guardrail by its name or import path.

    Raises:
        ValueError: there is none, or its factory does not take the options.
    """
    factory = _BUILT_IN.get(use) or imported(use)
    try:
        guardrail: Guardrail = factory(**options)
    except TypeError as error:
        raise ValueError(f"{use}: {error}") from error
    return guardrail
