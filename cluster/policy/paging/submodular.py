"""The set of adapters that serves a sample of requests best.

A set C is worth the mean over requests of max(b, max over C of u): u are the adapters' utilities, b is what
the best adapter is worth if it must be paged in first. That is a facility-location function, monotone and
submodular, so greedy reaches 1 − 1/e of the optimum (Nemhauser, Wolsey, Fisher 1978); with sizes, the better
one of greedy by gain, greedy by gain per byte and the best single adapter is taken (Khuller, Moss, Naor
1999). Swaps of one adapter for another improve on it. Greedy looks again only at what may still be best
(Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978), and all swaps of a
round are valued together; both are exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.policy.paging.interface import Mask, Narrow, Numbers, Rows

_SWAPS_MAX = 32
"""Every swap improves the value; this bounds the time."""
_LEAST = 1e-7
"""Improvement that is no rounding error of sums in single precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What may be chosen."""

    utilities: Numbers | Narrow
    """Requests by adapters."""
    floor: Numbers
    """Per request: its worth without any resident adapter."""
    toll: Numbers
    """Per adapter: what choosing it takes from the value (a page-in's cost, shared by requests)."""
    bytes: Numbers
    """Per adapter."""
    slots: int
    bytes_max: float
    held: tuple[int, ...] = ()
    """Adapters that are in the set whatever they are worth."""


def value(choice: Choice, rows: Sequence[int]) -> float:
    """Mean worth of a request with these adapters, above the floor and less tolls."""
    if not len(rows):
        return 0.0
    best = np.maximum(choice.utilities[:, list(rows)].max(axis=1), choice.floor)
    return float((best - choice.floor).mean() - choice.toll[list(rows)].sum())


def fits(choice: Choice, rows: Sequence[int]) -> bool:
    """Whether these adapters keep to slots and bytes."""
    return len(rows) <= choice.slots and float(choice.bytes[list(rows)].sum()) <= choice.bytes_max


def best_set(choice: Choice) -> tuple[list[int], float]:
    """Adapters, most valuable first, and their value."""
    search = _Search(choice)
    found = [search.greedy(per_byte=False)]
    if np.isfinite(choice.bytes_max):
        found.append(search.greedy(per_byte=True))
        found.extend(search.single())
    rows = max(found, key=lambda each: value(choice, each))
    rows = search.swapped(rows)
    return rows, value(choice, rows)


class _Search:
    """Steps of the search, with every adapter's utilities side by side in memory.

    In single precision, which takes half the time: utilities are estimates.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._utilities = np.ascontiguousarray(choice.utilities.T, dtype=np.float32)
        self._floor = choice.floor.astype(np.float32)

    def greedy(self, *, per_byte: bool) -> list[int]:
        """The adapter that adds most comes next, until no slot is left or nothing is added.

        What one adds only falls as the set grows, so what it added at some time is a bound: only those are
        looked at again whose bound is above the best so far (Minoux 1978).
        """
        choice = self._choice
        rows = list(choice.held)
        current = self._covered(rows)
        left = choice.bytes_max - choice.bytes[rows].sum()
        open_ = np.ones(len(choice.bytes), dtype=bool)
        open_[rows] = False
        bound = self._gains(current)
        while len(rows) < choice.slots:
            open_ &= choice.bytes <= left
            if not open_.any():
                break
            row = self._best(bound, open_, current, per_byte=per_byte)
            if bound[row] <= _LEAST:
                break
            rows.append(row)
            open_[row] = False
            left -= choice.bytes[row]
            current = np.maximum(current, self._utilities[row])
        return rows

    def single(self) -> list[list[int]]:
        """The best adapter that fits beside those held."""
        choice = self._choice
        rows = list(choice.held)
        if len(rows) >= choice.slots:
            return []
        fits = choice.bytes <= choice.bytes_max - choice.bytes[rows].sum()
        fits[rows] = False
        if not fits.any():
            return []
        return [[*rows, int(np.where(fits, self._gains(self._covered(rows)), -np.inf).argmax())]]

    def swapped(self, rows: list[int]) -> list[int]:
        """Swap one adapter at a time for as long as that improves the set."""
        choice, rows = self._choice, list(rows)
        movable = [place for place, row in enumerate(rows) if row not in choice.held]
        if not movable:
            return rows
        for _ in range(_SWAPS_MAX):
            best, swap = _LEAST, None
            gains = self._gains_without_each(rows)
            for place in movable:
                gain = gains[place]
                left = choice.bytes_max - (choice.bytes[rows].sum() - choice.bytes[rows[place]])
                fits = choice.bytes <= left
                fits[rows] = False
                better = np.where(fits, gain - gain[rows[place]], -np.inf)
                into = int(better.argmax())
                if better[into] > best:
                    best, swap = float(better[into]), (place, into)
            if swap is None:
                break
            rows[swap[0]] = swap[1]
        return rows

    def _best(self, bound: Numbers, open_: Mask, current: Narrow, *, per_byte: bool) -> int:
        """The open adapter that adds most now; brings the bounds of those that may be it up to date."""
        weight = 1.0 / self._choice.bytes if per_byte else np.ones(len(bound))
        merit = np.where(open_, bound * weight, -np.inf)
        first = int(merit.argmax())
        bound[first] = self._gains(current, [first])[0]
        merit[first] = bound[first] * weight[first]
        maybe = np.flatnonzero(merit > merit[first])
        if len(maybe):
            bound[maybe] = self._gains(current, maybe)
            merit[maybe] = bound[maybe] * weight[maybe]
        return int(merit.argmax())

    def _covered(self, rows: Sequence[int]) -> Narrow:
        """Per request: its worth with these adapters."""
        covered: Narrow = np.maximum(self._utilities[list(rows)].max(axis=0, initial=-np.inf), self._floor)
        return covered

    def _gains(self, current: Narrow, rows: Sequence[int] | Rows | None = None) -> Numbers:
        """What each adapter would add, or each of some."""
        utilities = self._utilities if rows is None else self._utilities[rows]
        toll = self._choice.toll if rows is None else self._choice.toll[rows]
        more = utilities - current
        gains: Numbers = np.maximum(more, 0.0, out=more).mean(axis=1) - toll
        return gains

    def _gains_without_each(self, rows: Sequence[int]) -> Numbers:
        """The same for the set less each of its adapters (first axis): more where that one is best."""
        chosen = self._utilities[list(rows)]
        best, requests = chosen.argmax(axis=0), np.arange(chosen.shape[1])
        top = np.maximum(chosen[best, requests], self._floor)
        is_best = np.zeros_like(chosen)
        is_best[best, requests] = 1.0 / len(requests)
        chosen[best, requests] = -np.inf
        second = np.maximum(chosen.max(axis=0), self._floor)
        more = self._utilities - second
        np.clip(more, 0.0, top - second, out=more)
        gains: Numbers = self._gains(top) + is_best @ more.T
        return gains
