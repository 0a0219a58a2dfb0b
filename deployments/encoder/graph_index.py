"""Nearest vectors in partitions that are too large to look at every one: usearch's graph (HNSW), re-scored
exactly.

It exists because a scan of 50,000 vectors takes some 7 ms and a graph of them under one. A small partition
stays a scan, which is exact and builds nothing. What the graph proposes gets its cosine from the vector
itself, so that a threshold means the same either way; only a near entry may be missed.
"""

from typing import Any

import numpy as np

from cluster.policy.semantic_cache.exact_scan import ExactScan, Vector

_CONNECTIVITY = 16
_EXPANSION_ADD = 100
_EXPANSION_SEARCH = 64
_SHRINK = 0.5
"""A graph is given up only below this part of the size from which it is built."""


class GraphIndex:
    """A scan that grows a graph beside it from `scan_max` vectors on."""

    def __init__(self, dimensions: int, *, scan_max: int) -> None:
        self._scan = ExactScan(dimensions)
        self._dimensions = dimensions
        self._scan_max = scan_max
        self._graph: Any = None

    def __len__(self) -> int:
        return len(self._scan)

    def add(self, key: int, vector: Vector) -> None:
        """See `VectorIndex`."""
        self._scan.add(key, vector)
        if self._graph is not None:
            self._graph.add(key, vector)
        elif len(self._scan) > self._scan_max:
            self._build()

    def remove(self, key: int) -> None:
        """See `VectorIndex`."""
        self._scan.remove(key)
        if self._graph is None:
            return
        if len(self._scan) < self._scan_max * _SHRINK:
            self._graph = None
        else:
            self._graph.remove(key)

    def nearest(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """See `VectorIndex`."""
        if self._graph is None or count > _EXPANSION_SEARCH:
            return self._scan.nearest(vector, count)
        keys = [int(key) for key in self._graph.search(vector, count).keys]
        found = [(key, self._scan.cosine(key, vector)) for key in keys]
        return sorted(found, key=lambda pair: -pair[1])

    def _build(self) -> None:
        # In this order: usearch 2.26 loaded before ONNX Runtime 1.x ends the process when that is loaded.
        import onnxruntime  # noqa: F401
        from usearch.index import Index

        self._graph = Index(
            ndim=self._dimensions,
            metric="ip",
            dtype="f16",
            connectivity=_CONNECTIVITY,
            expansion_add=_EXPANSION_ADD,
            expansion_search=_EXPANSION_SEARCH,
        )
        keys = self._scan.keys()
        vectors = np.stack([self._scan.vector(key) for key in keys])
        self._graph.add(np.array(keys, dtype=np.uint64), vectors, threads=1)
