"""The set of adapters that serves a sample of requests best.

A set C is worth the mean over requests of max(b, max over C of u): u are the adapters' utilities, b is what
the best adapter is worth if it must be paged in first. That is a facility-location function, monotone and
submodular, so greedy reaches 1 − 1/e of the optimum (Nemhauser, Wolsey, Fisher 1978); with sizes, the better
one of greedy by gain, greedy by gain per byte and the best single adapter is taken (Khuller, Moss, Naor
1999). Swaps of one adapter for another improve on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.policy.paging.interface import Numbers

_SWAPS_MAX = 32
"""Every swap improves the value; this bounds the time."""
_LEAST = 1e-9
"""Improvement that is no rounding error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What may be chosen."""

    utilities: Numbers
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
    found = [_greedy(choice, per_byte=False)]
    if np.isfinite(choice.bytes_max):
        found.append(_greedy(choice, per_byte=True))
        found.extend(_single(choice))
    rows = max(found, key=lambda each: value(choice, each))
    rows = _swapped(choice, rows)
    return rows, value(choice, rows)


def _greedy(choice: Choice, *, per_byte: bool) -> list[int]:
    rows = list(choice.held)
    current = choice.floor
    for row in rows:
        current = np.maximum(current, choice.utilities[:, row])
    left = choice.bytes_max - choice.bytes[rows].sum()
    open_ = np.ones(len(choice.bytes), dtype=bool)
    open_[rows] = False
    while len(rows) < choice.slots:
        open_ &= choice.bytes <= left
        if not open_.any():
            break
        gain = _gains(choice, current)
        merit = np.where(open_, gain / choice.bytes if per_byte else gain, -np.inf)
        row = int(merit.argmax())
        if gain[row] <= _LEAST:
            break
        rows.append(row)
        open_[row] = False
        left -= choice.bytes[row]
        current = np.maximum(current, choice.utilities[:, row])
    return rows


def _gains(choice: Choice, current: Numbers) -> Numbers:
    """What each adapter would add."""
    added: Numbers = np.maximum(choice.utilities - current[:, None], 0.0).mean(axis=0)
    return added - choice.toll


def _single(choice: Choice) -> list[list[int]]:
    """The best adapter that fits beside those held."""
    rows = list(choice.held)
    if len(rows) >= choice.slots:
        return []
    current = choice.floor
    for row in rows:
        current = np.maximum(current, choice.utilities[:, row])
    fits = choice.bytes <= choice.bytes_max - choice.bytes[rows].sum()
    fits[rows] = False
    if not fits.any():
        return []
    return [[*rows, int(np.where(fits, _gains(choice, current), -np.inf).argmax())]]


def _swapped(choice: Choice, rows: list[int]) -> list[int]:
    """Swap one adapter at a time for as long as that improves the set."""
    rows = list(rows)
    for _ in range(_SWAPS_MAX):
        best, swap = _LEAST, None
        for place, row in enumerate(rows):
            if row in choice.held:
                continue
            others = rows[:place] + rows[place + 1 :]
            current = choice.floor
            for other in others:
                current = np.maximum(current, choice.utilities[:, other])
            gain = _gains(choice, current)
            fits = choice.bytes <= choice.bytes_max - choice.bytes[others].sum()
            fits[rows] = False
            better = np.where(fits, gain - gain[row], -np.inf)
            into = int(better.argmax())
            if better[into] > best:
                best, swap = float(better[into]), (place, into)
        if swap is None:
            break
        rows[swap[0]] = swap[1]
    return rows
