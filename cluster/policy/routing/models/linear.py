"""Quality as a linear function of the features, one ridge per model, and four ways to act on it.

`ridge` takes the highest expectation. `linucb` adds its uncertainty to it (Li et al., "A contextual-bandit
approach to personalized news article recommendation", 2010; disjoint models). `thompson` takes each model
with the probability that it is the best under the posterior. `epsilon` takes the highest expectation but for
a shrinking share of requests. They are GreenServ's (arXiv 2601.17551) without the defects found in its code,
with the geometric forgetting and the idle arms' growing uncertainty of ParetoBandit (arXiv 2604.00136).
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from cluster.config.model_routing import LinearConfig, ModelRoutingConfig
from cluster.entities.model_routing import ModelSignals
from cluster.policy.routing.models.features import FeatureMap
from cluster.policy.routing.models.ridge_bank import (
    RidgeBank,
    RidgeRules,
    bank_fields,
    bank_from,
    empty_bank,
    fitted,
    learnt,
    unknown,
)
from cluster.policy.routing.models.scored import Example, Expected

Numbers = NDArray[np.float64]
Rule = Literal["ridge", "linucb", "thompson", "epsilon"]

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_SURE = 1e-9
"""Smallest standard deviation, so that certainty is no division by zero."""


class LinearScorer:
    """One ridge per model over the same features."""

    def __init__(self, rule: Rule, config: ModelRoutingConfig, features: FeatureMap) -> None:
        self._rule: Rule = rule
        self._linear: LinearConfig = config.linear
        self._share = config.exploration_share
        self._features = features
        self._forgetting = 1.0 if rule == "ridge" else config.linear.forgetting
        self._rules = RidgeRules(
            size=features.size,
            prior=np.array([config.linear.prior_quality]),
            regularisation=config.linear.regularisation,
            own_penalty=1.0,
            forgetting=self._forgetting,
            models_max=config.models_max,
        )

    @property
    def name(self) -> str:
        """As in the configuration."""
        return self._rule

    @property
    def learns_burden(self) -> bool:
        """Only quality is learnt."""
        return False

    def initial(self) -> RidgeBank:
        """Knows no model."""
        return empty_bank(self._rules)

    def version(self, state: RidgeBank) -> int:
        """Judged answers."""
        return state.answers

    def fitted(self, examples: Sequence[Example]) -> RidgeBank:
        """The ridge over all examples, weighing at most as many answers as forgetting would have kept."""
        rows = np.array([self._features.vector(example.signals) for example in examples])
        kept = len(examples)
        if self._forgetting < 1:
            kept = min(kept, round(1 / (1 - self._forgetting)))
        answers = {}
        for model in {model for example in examples for model in example.quality}:
            at = [row for row, example in enumerate(examples) if model in example.quality]
            answers[model] = at, np.array([examples[row].quality[model] for row in at])
        return fitted(self._rules, rows, answers, weight=kept / max(len(examples), 1))

    def expected(self, signals: ModelSignals, models: Sequence[str], state: RidgeBank) -> Expected:
        """θᵀx and the width of its posterior; a model without answers has the prior's."""
        x = self._features.vector(signals)
        rows = {model: row for row, model in enumerate(state.models)}
        known = [n for n, model in enumerate(models) if model in rows]
        at = [rows[models[n]] for n in known]
        quality, width = np.zeros(len(models)), np.zeros(len(models))
        if len(known) < len(models):
            quality[:] = unknown(state, self._rules)[0] @ x
            width[:] = np.sqrt(x @ (x / self._rules.own))
        quality[known] = (state.theta[:, 0] @ x)[at]
        if self._rule in ("linucb", "thompson"):
            growth = self._forgetting ** (state.touched - state.answers)
            growth = np.minimum(growth, self._linear.inflation_max)
            # of all models, because picking some would copy their matrices
            width[known] = np.sqrt(np.maximum((state.inverse @ x) @ x, 0.0) * growth)[at]
        if self._rule == "linucb":
            quality += self._linear.alpha * width
        return Expected(quality=quality, width=width * self._linear.noise)

    def scores(self, quality: Numbers, weight: float, burden: Numbers) -> Numbers:
        """Quality less burden, in points of quality."""
        return weight * quality - burden

    def chances(self, scores: Numbers, found: Expected) -> Numbers:
        """All for the highest score; `thompson` shares by the probability of being it."""
        return best_probabilities(scores, found.width) if self._rule == "thompson" else highest(scores)

    def tendency(self, scores: Numbers) -> Numbers:
        """All for the highest of each row."""
        return highest(scores)

    def uniform_share(self, state: RidgeBank) -> float:
        """The configured one; that of `epsilon` falls with every judged answer."""
        if self._rule != "epsilon":
            return self._share
        decayed = self._linear.epsilon_start * self._linear.epsilon_decay**state.answers
        return max(decayed, self._linear.epsilon_min)

    def learn(
        self, state: RidgeBank, signals: ModelSignals, model: str, quality: float, burden: float
    ) -> RidgeBank:
        """One more judged answer, in O(d²)."""
        del burden
        return learnt(state, self._rules, model, self._features.vector(signals), np.array([quality]))

    def fields(self, state: RidgeBank) -> dict[str, Any]:
        """For the disk."""
        return bank_fields(state)

    def from_fields(self, fields: dict[str, Any]) -> RidgeBank:
        """Read `fields`; features of another number are a ValueError."""
        return bank_from(fields, self._rules)


def highest(scores: Numbers) -> Numbers:
    """All chance for the highest score (of each row); of equal ones, for the first."""
    chances = np.zeros_like(scores)
    np.put_along_axis(chances, np.argmax(scores, axis=-1, keepdims=True), 1.0, axis=-1)
    return chances


def best_probabilities(means: Numbers, deviations: Numbers) -> Numbers:
    """The probability of each independent normal variable to be the largest.

    Thompson sampling takes each model with exactly this probability. It is computed by Gauss-Hermite
    quadrature and the one draw then picks from it, instead of sampling a posterior: the propensity that is
    logged is by construction the probability with which the model was taken. The quadrature's error, which is
    small unless one deviation is many times another, changes how close the policy is to Thompson's, not the
    propensity.
    """
    deviations = np.maximum(deviations, _SURE)
    at = means[:, None] + deviations[:, None] * _NODES
    # the other models first: a product over the first axis runs along memory
    below = ndtr((at - means[:, None, None]) / deviations[:, None, None])
    own = np.arange(len(means))
    below[own, own] = 1.0
    chances = np.asarray(below.prod(axis=0) @ _NODE_WEIGHTS)
    total = float(chances.sum())
    return chances / total if total > 0 else highest(means)
