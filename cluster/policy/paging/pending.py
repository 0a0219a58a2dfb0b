"""Choices whose answers were not judged yet.

Judgements come late, and a rule without randomness then gives every request of that time to one adapter. So
doubt shrinks with the choice: until it is judged, a choice counts as if it had been, for the width of the
estimate and not for its mean (Desautels, Krause, Burdick, "Parallelizing exploration-exploitation tradeoffs
in Gaussian process bandit optimization", 2014). Where only some answers are judged at all, it counts by their
share.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cluster.policy.paging.interface import Numbers

_MOST = 512
"""Choices that may wait; of more the oldest is taken for one that is never judged."""
_SLACK = 64
"""So many choices before the newest that was judged it is as well: judgements come in about this order."""


@dataclass(frozen=True, slots=True)
class PendingChoice:
    """One of them."""

    row: int
    x: Numbers
    weight: float
    """How much it counts as if it had been judged."""


class PendingChoices:
    """In the order in which they were made."""

    def __init__(self) -> None:
        self._waiting: dict[int, PendingChoice] = {}
        self._of: dict[tuple[int, bytes], deque[int]] = {}
        self._made = 0
        self._judged = 0
        self._newest = -1

    @property
    def made(self) -> int:
        """Choices so far."""
        return self._made

    def add(self, row: int, x: Numbers) -> PendingChoice:
        """An adapter was chosen for a request."""
        share = min(1.0, (self._judged + 1) / (self._newest + 2))
        made = PendingChoice(row, x, share)
        self._waiting[self._made] = made
        self._of.setdefault(_key(row, x), deque()).append(self._made)
        self._made += 1
        return made

    def judged(self, row: int, x: Numbers) -> PendingChoice | None:
        """The choice that a judgement is of; None if it is not among these."""
        numbers = self._of.get(_key(row, x))
        if not numbers:
            return None
        self._judged += 1
        self._newest = max(self._newest, numbers[0])
        return self._take(numbers[0])

    def overdue(self) -> Iterator[PendingChoice]:
        """Those that will hardly be judged any more; they are forgotten."""
        while self._waiting:
            oldest = next(iter(self._waiting))
            if len(self._waiting) <= _MOST and oldest >= self._newest - _SLACK:
                return
            yield self._take(oldest)

    def of(self, row: int) -> Iterator[PendingChoice]:
        """Those of one adapter."""
        return (choice for choice in self._waiting.values() if choice.row == row)

    def forget(self) -> None:
        """Rows mean other adapters from now on."""
        self._waiting.clear()
        self._of.clear()

    def _take(self, number: int) -> PendingChoice:
        choice = self._waiting.pop(number)
        numbers = self._of[_key(choice.row, choice.x)]
        numbers.popleft()
        if not numbers:
            del self._of[_key(choice.row, choice.x)]
        return choice


def _key(row: int, x: Numbers) -> tuple[int, bytes]:
    """The same after the vector has travelled in single precision."""
    return row, x.astype(np.float32).tobytes()
