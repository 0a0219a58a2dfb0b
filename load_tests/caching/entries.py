"""Generated entries for the benchmarks of near matches."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import StoredAnswer
from deployments.encoder.minilm import DIMENSIONS

PARTITION = Partition("tenant", "model", "scope")
NEAR = 0.35
"""Length of what is added to an entry to ask for it: a cosine of about .94."""
_CENTRES = 2000
_SPREAD = 0.6
"""Length of what is added to a centre: entries of one centre have a cosine of about .73."""

Vectors = NDArray[np.float32]


def text_of(number: int) -> str:
    """What was asked for an entry."""
    return f"How do I reset the password of account number {number}?"


def entry(number: int) -> StoredAnswer:
    """One entry without its vector."""
    return StoredAnswer(
        entry_id=f"{number:024x}",
        partition=PARTITION,
        category="chat",
        language="en",
        text=text_of(number),
        document_id=f"{number:024x}",
        document_bytes=1024,
        saved_s=1.0,
        saved_tokens=100,
        stored_at_s=0.0,
        exact_key=f"{number:064x}",
    )


def around(generator: np.random.Generator, count: int) -> Vectors:
    """Unit vectors around random centres."""
    centres = unit(generator.normal(size=(_CENTRES, DIMENSIONS)))
    vectors = np.empty((count, DIMENSIONS), dtype=np.float32)
    for start in range(0, count, _CENTRES):
        rows = vectors[start : start + _CENTRES]
        chosen = centres[generator.integers(0, _CENTRES, len(rows))]
        rows[:] = unit(chosen + _SPREAD * unit(generator.normal(size=rows.shape)))
    return vectors


def unit(rows: NDArray[Any]) -> Vectors:
    """Rows of length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / lengths, dtype=np.float32)
