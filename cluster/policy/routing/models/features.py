"""From what is known of a request to the vector that the learning policies are linear in."""

import math
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cluster.config.model_routing import FeaturesConfig
from cluster.entities.model_routing import ModelSignals

Vector = NDArray[np.float64]

BLOCK_LENGTH = 0.3
"""Of each group of features, where the constant is 1: the ridge penalty then weighs eleven times as much on
what tells requests apart as on a model's mean, which a handful of answers should settle."""
_LOG_TOKENS_USUAL, _LOG_TOKENS_SPREAD, _LENGTH_MAX = 5.0, 1.5, 3.0
"""A prompt of 150 tokens is usual; one of 2 or 13,000 is as unusual as it gets."""
_PROJECTION_SEED = 384


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """A constant, categories, bands of complexity, the prompt's length and its square, the projected
    embedding.

    Every band has its dimension (GreenServ encodes three bands in two and so loses the top one). The
    embedding's block has the length of the constant, so that the ridge penalty weighs both alike.
    """

    categories: tuple[str, ...]
    bounds: tuple[float, ...]
    bands: int
    with_length: bool
    embedding_dims: int
    _latest: list[tuple[ModelSignals, Vector]] = field(default_factory=list, repr=False, compare=False)
    """A decision asks twice for the features of the same request."""

    @classmethod
    def over(cls, config: FeaturesConfig, categories: tuple[str, ...]) -> "FeatureMap":
        """The map that a configuration describes, over these categories; others have no dimension."""
        return cls(
            categories=tuple(sorted(categories)) if config.category else (),
            bounds=config.complexity_bounds,
            bands=len(config.complexity_bounds) + 1 if config.complexity else 0,
            with_length=config.length,
            embedding_dims=config.embedding_dims,
        )

    @property
    def size(self) -> int:
        """Dimensions of the vector."""
        length = 2 if self.with_length else 0
        return 1 + len(self.categories) + self.bands + length + self.embedding_dims

    def vector(self, signals: ModelSignals) -> Vector:
        """The features of a request; not to be written to."""
        for signals_before, x in self._latest:
            if signals_before is signals:
                return x
        x = self._computed(signals)
        self._latest[:] = [(signals, x)]
        return x

    def _computed(self, signals: ModelSignals) -> Vector:
        x = np.zeros(self.size)
        x[0] = 1.0
        at = 1
        if signals.category in self.categories:
            x[at + self.categories.index(signals.category)] = BLOCK_LENGTH
        at += len(self.categories)
        if self.bands:
            x[at + sum(signals.complexity >= bound for bound in self.bounds)] = BLOCK_LENGTH
        at += self.bands
        if self.with_length:
            length = (math.log1p(signals.prompt_tokens) - _LOG_TOKENS_USUAL) / _LOG_TOKENS_SPREAD
            length = min(max(length, -_LENGTH_MAX), _LENGTH_MAX)
            x[at : at + 2] = BLOCK_LENGTH * length, BLOCK_LENGTH * (length * length - 1)
            at += 2
        if self.embedding_dims and signals.embedding:
            embedding = BLOCK_LENGTH * np.asarray(signals.embedding)
            if len(embedding) <= self.embedding_dims:
                x[at : at + len(embedding)] = embedding
            else:
                x[at:] = embedding @ projection(len(embedding), self.embedding_dims)
        return x


@cache
def projection(size: int, dims: int) -> Vector:
    """A fixed projection that keeps dot products roughly (Johnson and Lindenstrauss)."""
    gaussian = np.random.default_rng(_PROJECTION_SEED).normal(size=(size, dims))
    orthonormal, _ = np.linalg.qr(gaussian)
    return np.ascontiguousarray(orthonormal * np.sqrt(size / dims))
