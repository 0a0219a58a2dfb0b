"""Where in a disk's vectors to look: cells of a k-means, so that a look-up reads a few thousand of a million.

An inverted file (IVF; Jégou et al., "Product quantization for nearest neighbor search", 2011, without the
quantisation). It exists because a graph of a million vectors needs gigabytes of memory and twenty minutes,
and cells need one matrix. What is found is re-scored exactly by the caller; only a near entry may be missed.
"""

import numpy as np
from numpy.typing import NDArray

from cluster.policy.semantic_cache.exact_scan import Vector

Vectors = NDArray[np.float32]

_ROUNDS = 6


class Cells:
    """The cells of one file.

    Args:
        centres: One unit vector for each cell, cells x dimensions.
    """

    def __init__(self, centres: Vectors) -> None:
        self.centres = centres

    def of(self, vectors: Vectors) -> NDArray[np.int64]:
        """The cell of each vector; vectors are n x dimensions."""
        return np.asarray(np.argmax(vectors @ self.centres.T, axis=1), dtype=np.int64)

    def nearest(self, vector: Vector, count: int) -> list[int]:
        """The cells whose centres are nearest, the nearest first."""
        cosines = self.centres @ vector
        count = min(count, len(cosines))
        found = np.argpartition(-cosines, count - 1)[:count]
        return [int(cell) for cell in found[np.argsort(-cosines[found])]]


def trained(sample: Vectors, cells: int, *, seed: int = 0) -> Cells:
    """Cells fitted to a sample of unit vectors (spherical k-means; empty cells keep their centre).

    Args:
        sample: n x dimensions, n at least `cells`.
        cells: How many.
        seed: Of the first centres.
    """
    chosen = np.random.default_rng(seed).choice(len(sample), cells, replace=False)
    centres = sample[chosen].copy()
    for _ in range(_ROUNDS):
        owner = Cells(centres).of(sample)
        order = np.argsort(owner, kind="stable")
        first = np.flatnonzero(np.diff(owner[order], prepend=-1))
        sums = np.add.reduceat(sample[order], first, axis=0)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres[owner[order][first]] = sums / np.maximum(lengths, 1e-12)
    return Cells(centres)
