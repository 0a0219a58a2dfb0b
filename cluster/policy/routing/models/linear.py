"""Quality as a linear function of the features, one ridge per model, and four ways to act on it.

`ridge` takes the highest expectation. `linucb` adds its uncertainty to it (Li et al., "A contextual-bandit
approach to personalized news article recommendation", 2010; disjoint models). `thompson` takes each model
with the probability that it is the best under the posterior. `epsilon` takes the highest expectation but for
a shrinking share of requests. They are GreenServ's (arXiv 2601.17551) without the defects found in its code,
with the geometric forgetting and the idle arms' growing uncertainty of ParetoBandit (arXiv 2604.00136).

Per model m, with g for forgetting: A ← gᵏA + xxᵀ, b ← gᵏb + qx for the k judged answers since its last one, θ
= A⁻¹b. A⁻¹ is kept and updated by Sherman and Morrison's formula, O(d²). Forgetting also wears the ridge
penalty down, which would let the uncertainty of features that never occur grow without bound; it is restored
when half of it is gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from cluster.config.model_routing import LinearConfig, ModelRoutingConfig
from cluster.entities.model_routing import ModelSignals
from cluster.policy.routing.models.features import FeatureMap
from cluster.policy.routing.models.scored import Example, Expected
from cluster.policy.routing.models.state_json import array, entry

Numbers = NDArray[np.float64]
Rule = Literal["ridge", "linucb", "thompson", "epsilon"]

_PENALTY_LEFT_MIN = 0.5
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_SURE = 1e-9
"""Smallest standard deviation, so that certainty is no division by zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearState:
    """What is known per model; arrays have one row per model, in the order of `models`."""

    models: tuple[str, ...] = ()
    answers: int = 0
    """Judged, of all models."""
    inverse: Numbers
    response: Numbers
    theta: Numbers
    prior: Numbers
    """θ that the penalty pulls towards."""
    penalty: Numbers
    """Share of the penalty that forgetting has left."""
    touched: Numbers
    """`answers` at the model's last one."""


class LinearScorer:
    """One ridge per model over the same features."""

    def __init__(self, rule: Rule, config: ModelRoutingConfig, features: FeatureMap) -> None:
        self._rule: Rule = rule
        self._linear: LinearConfig = config.linear
        self._share = config.exploration_share
        self._models_max = config.models_max
        self._features = features
        self._forgetting = 1.0 if rule == "ridge" else config.linear.forgetting

    @property
    def name(self) -> str:
        """As in the configuration."""
        return self._rule

    @property
    def learns_burden(self) -> bool:
        """Only quality is learnt."""
        return False

    def initial(self) -> LinearState:
        """Knows no model."""
        return self._empty()

    def version(self, state: LinearState) -> int:
        """Judged answers."""
        return state.answers

    def fitted(self, examples: Sequence[Example]) -> LinearState:
        """The ridge over all examples, weighing at most as many answers as forgetting would have kept."""
        state = self.initial()
        rows = np.array([self._features.vector(example.signals) for example in examples])
        kept = len(examples)
        if self._forgetting < 1:
            kept = min(kept, round(1 / (1 - self._forgetting)))
        for model in sorted({model for example in examples for model in example.quality}):
            state = self._with_model(state, model)
            index = state.models.index(model)
            judged = np.array([model in example.quality for example in examples])
            quality = np.array([example.quality[model] for example in examples if model in example.quality])
            weight = min(1.0, kept / len(examples))
            seen = rows[judged]
            gram = self._linear.regularisation * np.eye(self._features.size) + weight * seen.T @ seen
            state.inverse[index] = np.linalg.inv(gram)
            state.response[index] += weight * seen.T @ quality
            state.theta[index] = state.inverse[index] @ state.response[index]
        return state

    def expected(self, signals: ModelSignals, models: Sequence[str], state: LinearState) -> Expected:
        """θᵀx and the width of its posterior; a model without answers has the prior's."""
        x = self._features.vector(signals)
        known = [n for n, model in enumerate(models) if model in state.models]
        at = [state.models.index(models[n]) for n in known]
        quality = np.full(len(models), float(self._prior(state) @ x))
        width = np.full(len(models), float(np.sqrt(x @ x / self._linear.regularisation)))
        quality[known] = (state.theta @ x)[at]
        idle = state.answers - state.touched
        growth = np.minimum(self._forgetting**-idle, self._linear.inflation_max)
        # of all models, because picking some would copy their matrices
        if self._rule in ("linucb", "thompson"):
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

    def uniform_share(self, state: LinearState) -> float:
        """The configured one; that of `epsilon` falls with every judged answer."""
        if self._rule != "epsilon":
            return self._share
        decayed = self._linear.epsilon_start * self._linear.epsilon_decay**state.answers
        return max(decayed, self._linear.epsilon_min)

    def learn(
        self, state: LinearState, signals: ModelSignals, model: str, quality: float, burden: float
    ) -> LinearState:
        """One more judged answer, in O(d²)."""
        del burden
        state = self._with_model(state, model)
        index = state.models.index(model)
        x = self._features.vector(signals)
        decay = self._forgetting ** float(state.answers + 1 - state.touched[index])
        inverse = state.inverse[index] / decay
        seen = inverse @ x
        inverse -= np.outer(seen, seen) / (1 + x @ seen)
        response = state.response[index] * decay + quality * x
        penalty = float(state.penalty[index]) * decay
        if penalty < _PENALTY_LEFT_MIN:
            worn = self._linear.regularisation * (1 - penalty)
            inverse = np.linalg.inv(np.linalg.inv(inverse) + worn * np.eye(len(x)))
            response += worn * state.prior[index]
            penalty = 1.0
        state.inverse[index] = inverse
        state.response[index] = response
        state.theta[index] = inverse @ response
        state.penalty[index] = penalty
        state.touched[index] = state.answers + 1
        return replace(state, answers=state.answers + 1)

    def fields(self, state: LinearState) -> dict[str, Any]:
        """For the disk."""
        return {
            "models": list(state.models),
            "answers": state.answers,
            "inverse": state.inverse,
            "response": state.response,
            "theta": state.theta,
            "prior": state.prior,
            "penalty": state.penalty,
            "touched": state.touched,
        }

    def from_fields(self, fields: dict[str, Any]) -> LinearState:
        """Read `fields`; features of another number are a ValueError."""
        models = tuple(str(model) for model in entry(fields, "models", list))
        count, size = len(models), self._features.size
        return LinearState(
            models=models,
            answers=entry(fields, "answers", int),
            inverse=array(fields, "inverse", (count, size, size)),
            response=array(fields, "response", (count, size)),
            theta=array(fields, "theta", (count, size)),
            prior=array(fields, "prior", (count, size)),
            penalty=array(fields, "penalty", (count,)),
            touched=array(fields, "touched", (count,)),
        )

    def _empty(self) -> LinearState:
        size = self._features.size
        return LinearState(
            inverse=np.zeros((0, size, size)),
            response=np.zeros((0, size)),
            theta=np.zeros((0, size)),
            prior=np.zeros((0, size)),
            penalty=np.zeros(0),
            touched=np.zeros(0),
        )

    def _prior(self, state: LinearState) -> Numbers:
        """θ of a model nothing is known of: the mean of the others, or a constant quality."""
        if state.models:
            return np.asarray(state.theta.mean(axis=0))
        constant = np.zeros(self._features.size)
        constant[0] = self._linear.prior_quality
        return constant

    def _with_model(self, state: LinearState, model: str) -> LinearState:
        """A copy that has a row for the model, if need be in place of the one that was silent longest."""
        rows = np.arange(len(state.models))
        if model not in state.models and len(rows) >= self._models_max:
            rows = np.delete(rows, np.argmin(state.touched))
        kept = LinearState(
            models=tuple(state.models[row] for row in rows),
            answers=state.answers,
            inverse=state.inverse[rows],
            response=state.response[rows],
            theta=state.theta[rows],
            prior=state.prior[rows],
            penalty=state.penalty[rows],
            touched=state.touched[rows],
        )
        if model in kept.models:
            return kept
        prior, strength = self._prior(state)[None], self._linear.regularisation
        return LinearState(
            models=(*kept.models, model),
            answers=kept.answers,
            inverse=np.concatenate([kept.inverse, np.eye(self._features.size)[None] / strength]),
            response=np.concatenate([kept.response, strength * prior]),
            theta=np.concatenate([kept.theta, prior]),
            prior=np.concatenate([kept.prior, prior]),
            penalty=np.append(kept.penalty, 1.0),
            touched=np.append(kept.touched, float(kept.answers)),
        )


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
    below = ndtr((at[:, :, None] - means) / deviations)
    own = np.arange(len(means))
    below[own, :, own] = 1.0
    chances = below.prod(axis=2) @ _NODE_WEIGHTS
    total = float(chances.sum())
    return chances / total if total > 0 else highest(means)
