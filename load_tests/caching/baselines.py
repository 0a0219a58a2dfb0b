"""Policies of other semantic caches, written from their published formulas, to stand beside ours.

`Static` is what GPTCache does with its default settings (top-1 cosine against one threshold). `PerEntry` is
vCache (Schroeder et al., 2502.03771): each entry estimates from its own observations how likely a match of
this similarity is right, and explores with the probability that keeps errors below delta over all requests.
"""

import math
import random
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.policy.semantic_cache.exact_scan import ExactScan, VectorIndex
from load_tests.caching.streams import Prompt

GPTCACHE_THRESHOLD = 0.8
_OBSERVATIONS_MIN = 6
_CONFIDENCES = np.linspace(0.01, 0.99, 50)
_QUANTILES = np.array([NormalDist().inv_cdf(1 - epsilon) for epsilon in _CONFIDENCES])
_NEWTON_STEPS = 25
_RIDGE = 1e-2
"""Keeps the fit finite where right and wrong can be separated."""

Vectors = NDArray[np.float32]
Judge = Callable[[int, int], bool]
"""Whether the answer to one prompt is right for another, by their indices."""


class CachePolicy(Protocol):
    """What a stream is replayed against."""

    fresh_answers: int
    """Would-be hits that were answered fresh, to learn from them."""

    def arrive(self, index: int) -> int | None:
        """Answers a prompt: the index of the prompt whose answer is served, or None if it is computed."""
        ...


class Static:
    """One threshold for everything, no guards."""

    def __init__(self, vectors: Vectors, threshold: float, index: VectorIndex | None = None) -> None:
        self.fresh_answers = 0
        self._vectors = vectors
        self._threshold = threshold
        self._index = index or ExactScan(vectors.shape[1])

    def arrive(self, index: int) -> int | None:
        """See `CachePolicy`."""
        nearest = self._index.nearest(self._vectors[index], 1)
        if nearest and nearest[0][1] >= self._threshold:
            return nearest[0][0]
        self._index.add(index, self._vectors[index])
        return None


class PerEntry:
    """A logistic curve per entry; what is wrong becomes an entry of its own."""

    def __init__(self, vectors: Vectors, judge: Judge, *, delta: float, seed: int) -> None:
        self.fresh_answers = 0
        self._vectors = vectors
        self._judge = judge
        self._delta = delta
        self._draw = random.Random(seed)
        self._index = ExactScan(vectors.shape[1])
        self._observations: dict[int, list[tuple[float, bool]]] = {}

    def arrive(self, index: int) -> int | None:
        """See `CachePolicy`."""
        nearest = self._index.nearest(self._vectors[index], 1)
        if not nearest:
            self._insert(index)
            return None
        entry, similarity = nearest[0]
        seen = self._observations[entry]
        if self._draw.random() >= exploration(seen, similarity, delta=self._delta):
            return entry
        self.fresh_answers += 1
        is_right = self._judge(index, entry)
        seen.append((similarity, is_right))
        if not is_right:
            self._insert(index)
        return None

    def _insert(self, index: int) -> None:
        self._index.add(index, self._vectors[index])
        self._observations[index] = []


def exploration(seen: Sequence[tuple[float, bool]], similarity: float, *, delta: float) -> float:
    """The probability with which an entry's match must be answered fresh: min over ε of 1 - δ/(1 - α(ε))."""
    if len(seen) < _OBSERVATIONS_MIN:
        return 1.0
    slope, middle, deviation = _logistic(seen)
    middles = np.clip(middle + _QUANTILES * deviation, 0.0, 1.0)
    right = (1 - _CONFIDENCES) / (1 + np.exp(np.clip(-slope * (similarity - middles), -60, 60)))
    return float(np.clip(1 - delta / np.maximum(1 - right, 1e-12), 0.0, 1.0).min())


def _logistic(seen: Sequence[tuple[float, bool]]) -> tuple[float, float, float]:
    """Slope, middle and the middle's standard deviation (delta method) of P(right | similarity)."""
    design = np.array([(1.0, similarity) for similarity, _ in seen])
    labels = np.array([float(is_right) for _, is_right in seen])
    weights = np.zeros(2)
    curvature = np.eye(2)
    for _ in range(_NEWTON_STEPS):
        odds = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        curvature = design.T @ (design * (odds * (1 - odds))[:, None]) + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, design.T @ (labels - odds) - _RIDGE * weights)
        weights += step
        if float(np.abs(step).max()) < 1e-6:
            break
    intercept, slope = float(weights[0]), max(float(weights[1]), 1e-6)
    gradient = np.array([-1 / slope, intercept / slope**2])
    variance = float(gradient @ np.linalg.solve(curvature, gradient))
    return slope, -intercept / slope, math.sqrt(max(variance, 0.0))


def judge_of(prompts: Sequence[Prompt], *, error_rate: float, seed: int) -> Judge:
    """A judge that knows the labels and errs at random: the same way whenever it is asked the same."""

    def judge(one: int, other: int) -> bool:
        is_same = prompts[one].answer == prompts[other].answer
        return is_same != (random.Random(f"{seed}:{one}:{other}").random() < error_rate)

    return judge
