"""How an answer's money and energy depend on the request: some prompts make a model talk four times as long.

Two factors per model, linear in the features, on what is expected of any request: on what the caller
predicted, or else on the mean of the latest answers. Learnt from every outcome, judged or not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.config.model_routing import ModelRoutingConfig
from cluster.entities.model_routing import ModelOutcome, ModelSignals
from cluster.policy.routing.models.features import FeatureMap
from cluster.policy.routing.models.ridge_bank import RidgeBank, RidgeRules, bank_from, empty_bank, learnt
from cluster.policy.routing.models.usage import COST, ENERGY, Usage

Numbers = NDArray[np.float64]

OUTPUTS = 2
_OWN_PENALTY = 3.0
"""A prompt that makes one model talk makes the others talk: more of it is shared than of their quality."""
_FACTOR_SPAN = (0.1, 10.0)
"""Beyond, a factor is an accident rather than a property of the request."""


class NeedsModel:
    """Factors on money and energy."""

    def __init__(self, config: ModelRoutingConfig, features: FeatureMap) -> None:
        self._features = features
        self._rules = RidgeRules(
            size=features.size,
            prior=np.zeros(OUTPUTS),
            regularisation=config.linear.regularisation,
            own_penalty=_OWN_PENALTY,
            forgetting=config.linear.forgetting,
            models_max=config.models_max,
        )

    def initial(self) -> RidgeBank:
        """Every factor is 1."""
        return empty_bank(self._rules)

    def factors(self, signals: ModelSignals, models: Sequence[str], state: RidgeBank) -> Numbers:
        """On money and on energy, one row per model."""
        factors = np.ones((len(models), OUTPUTS))
        if state.models:
            excess = state.theta @ self._features.vector(signals)
            for row, model in enumerate(models):
                if model in state.models:
                    factors[row] += excess[state.models.index(model)]
        return np.clip(factors, *_FACTOR_SPAN)

    def learn(self, state: RidgeBank, outcome: ModelOutcome, usage: Usage) -> RidgeBank:
        """One more outcome; `usage` is what was known before it."""
        known = usage.models.get(outcome.model)
        seen = (0.0, 0.0) if known is None else known.summary[[COST, ENERGY]]
        told = (outcome.predicted_cost_usd, outcome.predicted_energy_j)
        excess = np.zeros(OUTPUTS)
        for at, took in enumerate((outcome.cost_usd, outcome.energy_j)):
            usual = told[at] or seen[at]
            if usual > 0 and took > 0:
                least, most = (share * usual for share in _FACTOR_SPAN)
                excess[at] = min(max(took, least), most) / usual - 1
        return learnt(state, self._rules, outcome.model, self._features.vector(outcome.signals), excess)

    def from_fields(self, fields: Mapping[str, Any]) -> RidgeBank:
        """Read `bank_fields`; features of another number are a ValueError."""
        return bank_from(fields, self._rules)
