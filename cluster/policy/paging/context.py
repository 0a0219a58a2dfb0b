"""The vector that stands for a request when adapters are chosen: a constant, and its embedding made short.

The projection is random and fixed (orthonormal directions of a seeded Gaussian matrix, after Johnson and
Lindenstrauss), not fitted: it needs no data, every process makes the same one, and inner products are kept on
average. What it loses is bounded by the dimension alone.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from cluster.policy.paging.interface import Numbers

_SEED = 20_260_417
"""Any; another one makes everything that was learnt worthless."""


@cache
def _directions(embedding_dimension: int, count: int) -> Numbers:
    drawn = np.random.default_rng(_SEED).standard_normal((embedding_dimension, count))
    basis, upper = np.linalg.qr(drawn)
    # The sign of a factor is the library's choice; fixed, the directions are the same everywhere.
    return np.asarray(basis * np.sign(np.diag(upper)) * np.sqrt(embedding_dimension / count))


def context_vector(embedding: Sequence[float], dimension: int) -> Numbers:
    """The vector of a request; of one whose text was not read, the constant alone.

    Args:
        embedding: of unit length, or empty.
        dimension: of the result; its first place is the constant.

    Returns:
        A vector whose length is 1 on average over embeddings.
    """
    x = np.zeros(dimension)
    x[0] = np.sqrt(0.5)
    if len(embedding):
        directions = _directions(len(embedding), min(dimension - 1, len(embedding)))
        projected = np.sqrt(0.5) * (np.asarray(embedding, dtype=np.float64) @ directions)
        x[1 : 1 + projected.size] = projected
    return x
