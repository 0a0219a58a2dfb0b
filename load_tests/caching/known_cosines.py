"""Nearest prompts by cosines that were computed once for all replays of a workload.

It exists because a curve replays one stream dozens of times and two thirds of that time went into the same
inner products. Look-ups found this way say nothing about how long look-ups take.
"""

import numpy as np

from cluster.policy.semantic_cache.exact_scan import Vector
from load_tests.caching.baselines import Vectors


class KnownCosines:
    """What `ExactScan` finds, among the rows of one matrix.

    Args:
        vectors: Of all prompts; who asks passes a row of this very array.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.between = vectors @ vectors.T

    def place(self, vector: Vector) -> int:
        """Which row a vector is, by where it lies in memory."""
        return int((vector.ctypes.data - self.vectors.ctypes.data) // self.vectors.strides[0])


class KnownIndex:
    """A `VectorIndex` over some of the rows."""

    def __init__(self, cosines: KnownCosines) -> None:
        self._cosines = cosines
        self._rows = np.empty(len(cosines.vectors), dtype=np.int64)
        self._keys: list[int] = []
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: int, vector: Vector) -> None:
        """See `VectorIndex`."""
        self._rows[len(self._keys)] = self._cosines.place(vector)
        self._places[key] = len(self._keys)
        self._keys.append(key)

    def remove(self, key: int) -> None:
        """See `VectorIndex`."""
        place, last = self._places.pop(key), self._keys.pop()
        if last != key:
            self._rows[place] = self._rows[len(self._keys)]
            self._keys[place] = last
            self._places[last] = place

    def nearest(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """See `VectorIndex`."""
        cosines = self._cosines.between[self._cosines.place(vector)][self._rows[: len(self._keys)]]
        many = len(cosines) > count
        best = np.argpartition(cosines, -count)[-count:] if many else np.arange(len(cosines))
        best = best[np.argsort(-cosines[best], kind="stable")]
        return [(self._keys[place], float(cosines[place])) for place in best]
