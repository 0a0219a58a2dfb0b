"""How likely a near match is wrong, by its similarity and its category: logistic regression with partial
pooling.

It exists because a category sees too few near matches to learn a threshold of its own quickly: 149 right ones
and no wrong one for errors below 2 %. All categories share the slope; each has an offset that is drawn to
zero by a ridge, so that it counts as much as its evidence does (random intercepts; Gelman and Hill 2007,
chapter 12).

What stands around a near match counts as well (`surroundings`): as similarity that it adds or takes away, so
that one number still orders all near matches of a category.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cluster.policy.semantic_cache.surroundings import FEATURES, Surroundings

_RIDGE_SHARED = 0.05
_RIDGE_CATEGORY = 0.6
"""A category with a few dozen judgements has about half of the offset that these alone would give it."""
_STEPS_MAX = 12
_CENTRE = 0.8
_SCALE = 0.1
"""Similarities of interest become numbers around zero."""
_LOGIT_MAX = 30.0
_SLOPE_MAX = -0.2
"""A flatter slope would make a little agreement worth all similarity."""
_SIGNS = (-1.0, 1.0, -1.0, 1.0)
"""Of what stands around a match: agreement and a second entry make it safer, rivals and refutals riskier."""
_SHARED = 2 + FEATURES
"""Columns that all categories share: intercept, similarity, surroundings."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskModel:
    """A fit. Without judgements everything is as likely wrong as right."""

    intercept: float = 0.0
    slope: float = -1.0
    """Per 0.1 of similarity; never positive: what is nearer is not likelier wrong."""
    weights: tuple[float, ...] = (0.0,) * FEATURES
    """Of what stands around a match; none speaks against what its sign must be."""
    offsets: dict[str, float] = field(default_factory=dict)

    def lift(self, around: Surroundings) -> float:
        """What stands around a match, in similarity."""
        total = sum(weight * value for weight, value in zip(self.weights, around.features(), strict=True))
        return _SCALE * total / self.slope

    def scores(self, similarities: Numbers, around: Numbers) -> Numbers:
        """Similarities with their lifts, for many matches at once."""
        lifts: Numbers = _SCALE * (around @ np.array(self.weights)) / self.slope
        return similarities + lifts

    def logit(self, score: float, category: str) -> float:
        """Log-odds of being wrong, by similarity and lift."""
        return self.intercept + self.slope * (score - _CENTRE) / _SCALE + self.offsets.get(category, 0.0)

    def logits(self, scores: Numbers, category: str) -> Numbers:
        """The same for many scores."""
        offset = self.intercept + self.offsets.get(category, 0.0)
        return offset + self.slope * (scores - _CENTRE) / _SCALE

    def score_at(self, logit: float, category: str) -> float:
        """The score at which a category's log-odds of being wrong are these."""
        rest = logit - self.intercept - self.offsets.get(category, 0.0)
        return _CENTRE + _SCALE * rest / self.slope


def fit_risk(categories: Sequence[str], similarities: Numbers, around: Numbers, wrong: Numbers) -> RiskModel:
    """Newton's method on all judgements; a few milliseconds for two thousand.

    Args:
        categories: Of each judgement.
        similarities: Of each.
        around: A row of `Surroundings.features` for each.
        wrong: 1 where the stored answer was wrong.
    """
    names = sorted(set(categories))
    places = {name: place for place, name in enumerate(names, start=_SHARED)}
    design = np.zeros((len(categories), _SHARED + len(names)))
    design[:, 0] = 1.0
    design[:, 1] = (similarities - _CENTRE) / _SCALE
    design[:, 2:_SHARED] = around
    design[np.arange(len(categories)), [places[name] for name in categories]] = 1.0
    ridge = np.full(design.shape[1], _RIDGE_CATEGORY)
    ridge[:_SHARED] = _RIDGE_SHARED
    centre = np.zeros(design.shape[1])
    centre[1] = -1.0
    weights = centre.copy()
    for _ in range(_STEPS_MAX):
        odds = 1 / (1 + np.exp(-np.clip(design @ weights, -_LOGIT_MAX, _LOGIT_MAX)))
        gradient = design.T @ (wrong - odds) - ridge * (weights - centre)
        curvature = design.T @ (design * (odds * (1 - odds))[:, None]) + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if float(np.abs(step).max()) < 1e-4:
            break
    return RiskModel(
        intercept=float(weights[0]),
        slope=min(float(weights[1]), _SLOPE_MAX),
        weights=tuple(
            sign * max(sign * float(weight), 0.0)
            for sign, weight in zip(_SIGNS, weights[2:_SHARED], strict=True)
        ),
        offsets={name: float(weights[place]) for name, place in places.items()},
    )
