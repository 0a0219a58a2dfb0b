"""How long page-ins take, learnt from those that happened, and what they cost in utility.

The time of an adapter that was not loaded from some tier yet follows from its bytes and what the tier needed
per byte with others. A load that stops the engine's running streams costs their time as well.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cluster.config.paging import PagingConfig
from cluster.policy.paging.interface import Numbers, Rows, carried

TIERS = ("remote", "disk", "staged", "host")
"""Where an adapter that is not in a slot may lie, the farthest first."""
_WEIGHT = 0.2
"""Of the latest page-in in the moving averages."""


class PageInTimes:
    """Moving averages per adapter and tier."""

    def __init__(self, config: PagingConfig) -> None:
        self._utility_per_s = config.utility_per_s
        self._per_byte = np.full(len(TIERS), config.page_in_s / config.page_in_bytes)
        self._learnt = np.zeros(len(TIERS), dtype=bool)
        self._bytes: Numbers = np.zeros(0)
        self._seconds: Numbers = np.zeros((0, len(TIERS)))
        self._variance: Numbers = np.zeros((0, len(TIERS)))
        self._stall_s = 0.0

    @property
    def stall_s(self) -> float:
        """For which a load stops each running stream."""
        return self._stall_s

    def observe(self, row: int, tier: str, seconds: float, *, stall_s: float = 0.0) -> None:
        """A page-in that took so long and stopped each running stream for `stall_s`."""
        column = TIERS.index(tier)
        before = self._seconds[row, column]
        if np.isnan(before):
            self._seconds[row, column] = seconds
        else:
            off = seconds - before
            self._seconds[row, column] = before + _WEIGHT * off
            self._variance[row, column] = (1 - _WEIGHT) * (self._variance[row, column] + _WEIGHT * off * off)
        per_byte = seconds / self._bytes[row]
        weight = _WEIGHT if self._learnt[column] else 1.0
        self._per_byte[column] += weight * (per_byte - self._per_byte[column])
        self._learnt[column] = True
        self._stall_s += _WEIGHT * (stall_s - self._stall_s)

    def expected_s(self, tier: str) -> Numbers:
        """Of every adapter from this tier."""
        column = TIERS.index(tier)
        seen = self._seconds[:, column]
        return np.where(np.isnan(seen), self._per_byte[column] * self._bytes, seen)

    def least_s(self, tier: str) -> Numbers:
        """Of every adapter from this tier, one standard error of the moving average below it.

        What leaves is valued by this: an adapter whose page-ins were dear by accident is not kept for them
        (optimism about unknown weights, arXiv 2410.21266).
        """
        column = TIERS.index(tier)
        error = np.sqrt(self._variance[:, column] * _WEIGHT / (2 - _WEIGHT))
        least: Numbers = np.maximum(self.expected_s(tier) - error, 0.0)
        return least

    def cost(self, tier: str) -> Numbers:
        """Utility that a page-in of every adapter costs while nothing else runs."""
        return self._utility_per_s * self.expected_s(tier)

    def least_cost(self, tier: str) -> Numbers:
        """The same, going by `least_s`."""
        return self._utility_per_s * self.least_s(tier)

    def catalogue_changed(self, sizes: Numbers, origin: Rows) -> None:
        """Other adapters."""
        self._bytes = sizes
        self._seconds = carried(self._seconds, origin, np.nan)
        self._variance = carried(self._variance, origin, 0.0)

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return {
            "per_byte": self._per_byte,
            "learnt": self._learnt,
            "seconds": self._seconds,
            "variance": self._variance,
            "stall_s": np.array(self._stall_s),
        }

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave, for the same catalogue in the same order."""
        self._per_byte = np.array(arrays["per_byte"], dtype=np.float64)
        self._learnt = np.array(arrays["learnt"], dtype=bool)
        self._seconds = np.array(arrays["seconds"], dtype=np.float64)
        self._variance = np.array(arrays["variance"], dtype=np.float64)
        self._stall_s = float(np.asarray(arrays["stall_s"], dtype=np.float64))
