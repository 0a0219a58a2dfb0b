"""Sees that requests begin to need other adapters.

The test of Page and Hinkley (Page, "Continuous inspection schemes", 1954): how far the sum of what exceeds
the mean and a tolerance has risen above its lowest.
"""

import numpy as np

from cluster.policy.paging.interface import Numbers

_VALUES_MIN = 64
"""Before so many values their mean says little."""


class PageHinkley:
    """Sees a mean rise."""

    def __init__(self, *, tolerance: float, threshold: float) -> None:
        self._tolerance = tolerance
        self._threshold = threshold
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._values, self._lowest_at, self._mean, self._sum, self._lowest = 0, 0, 0.0, 0.0, 0.0

    @property
    def risen_for(self) -> int:
        """Values since the sum was lowest: the estimate of when the mean began to rise."""
        return self._values - self._lowest_at

    def rises(self, value: float) -> bool:
        """One more value; whether the mean has risen."""
        self._values += 1
        self._mean += (value - self._mean) / self._values
        self._sum += value - self._mean - self._tolerance
        if self._sum <= self._lowest:
            self._lowest, self._lowest_at = self._sum, self._values
        return self._values >= _VALUES_MIN and self._sum - self._lowest > self._threshold

    def array(self) -> Numbers:
        """For the disk."""
        return np.array([self._values, self._lowest_at, self._mean, self._sum, self._lowest])

    def restore(self, array: Numbers) -> None:
        """Take up what `array` gave."""
        values, lowest_at, self._mean, self._sum, self._lowest = (float(value) for value in array)
        self._values, self._lowest_at = int(values), int(lowest_at)
