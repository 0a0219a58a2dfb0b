"""Nearest vectors by looking at all of them: exact, deterministic, and fast enough for some thousand.

The interface that larger indexes share is here as well. All vectors have length 1, so that the inner product
is the cosine.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
_ROWS_AT_FIRST = 16
_GROWTH = 1.5


class VectorIndex(Protocol):
    """Vectors by integer key."""

    def __len__(self) -> int: ...

    def add(self, key: int, vector: Vector) -> None:
        """Takes in a vector under a key that is not in use."""
        ...

    def remove(self, key: int) -> None:
        """Forgets a vector for good."""
        ...

    def nearest(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """Keys and cosines of the nearest vectors, the nearest first."""
        ...


class ExactScan:
    """Rows of a matrix without gaps: the last row takes the place of one that is removed."""

    def __init__(self, dimensions: int) -> None:
        self._rows = np.empty((_ROWS_AT_FIRST, dimensions), dtype=np.float32)
        self._keys: list[int] = []
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: int, vector: Vector) -> None:
        """See `VectorIndex`.

        Raises:
            ValueError: the key is in use.
        """
        if key in self._places:
            raise ValueError(f"key {key} is in use")
        count = len(self._keys)
        if count == len(self._rows):
            grown = np.empty((int(count * _GROWTH) + 1, self._rows.shape[1]), dtype=np.float32)
            grown[:count] = self._rows
            self._rows = grown
        self._rows[count] = vector
        self._keys.append(key)
        self._places[key] = count

    def remove(self, key: int) -> None:
        """See `VectorIndex`."""
        place = self._places.pop(key)
        last = self._keys.pop()
        if last != key:
            self._rows[place] = self._rows[len(self._keys)]
            self._keys[place] = last
            self._places[last] = place

    def vector(self, key: int) -> Vector:
        """One vector."""
        row: Vector = self._rows[self._places[key]]
        return row

    def cosine(self, key: int, vector: Vector) -> float:
        """The cosine of one stored vector."""
        return float(self.vector(key) @ vector)

    def keys(self) -> list[int]:
        """All keys."""
        return list(self._keys)

    def nearest(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """See `VectorIndex`."""
        cosines = self._rows[: len(self._keys)] @ vector
        many = len(cosines) > count
        best = np.argpartition(cosines, -count)[-count:] if many else np.arange(len(cosines))
        best = best[np.argsort(-cosines[best], kind="stable")]
        return [(self._keys[place], float(cosines[place])) for place in best]
