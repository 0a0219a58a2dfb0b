"""Trails per category that good answers reinforce and time evaporates (AMRO-S, arXiv 2603.12933).

An ant system's table of category by model: P(j) ∝ τ_j^α · η_j^β with η_j = 1/(what j takes); with p_k the
probability of category k, τ_j = Σ_k p_k τ_j^k; after an answer of quality q by model j, τ^k ← (1−ρp_k)τ^k for
all models, and τ_j^k grows by ρp_k·q/(what it took) if q ≥ q_min. This is the ant system's own rule (Dorigo
1996); the paper's was not read. Readable and naturally forgetful, it is offered as a baseline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.config.model_routing import ModelRoutingConfig, PheromoneConfig
from cluster.entities.model_routing import ModelSignals
from cluster.policy.routing.models.scored import Example, Expected
from cluster.policy.routing.models.state_json import entry

Numbers = NDArray[np.float64]

_ANYTHING = ""
"""Trail of the requests of all categories, for the part of the probability that is not the category's."""
_TRAIL_START = 1.0
_TRAIL_MIN = 1e-3
"""A model is never forgotten altogether."""
_BURDEN_LEAST = 0.1
"""What even the model that takes least counts as taking, so that 1/η stays finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PheromoneState:
    """Trails by category and model; the category that was silent longest stands first."""

    trails: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    answers: int = 0


class PheromoneScorer:
    """Scores are logarithms of desirability, so that a budget's price can be taken off."""

    def __init__(self, config: ModelRoutingConfig) -> None:
        self._config: PheromoneConfig = config.pheromone
        self._share = config.exploration_share
        self._categories_max = config.categories_max
        self._models_max = config.models_max

    @property
    def name(self) -> str:
        """As in the configuration."""
        return "pheromone"

    @property
    def learns_burden(self) -> bool:
        """Good answers that took less reinforce more."""
        return True

    def initial(self) -> PheromoneState:
        """No trail."""
        return PheromoneState()

    def version(self, state: PheromoneState) -> int:
        """Judged answers."""
        return state.answers

    def fitted(self, examples: Sequence[Example]) -> PheromoneState:
        """The trails after all examples."""
        state = self.initial()
        for example in examples:
            for model, quality in example.quality.items():
                state = self.learn(state, example.signals, model, quality, 0.0)
        return state

    def expected(self, signals: ModelSignals, models: Sequence[str], state: PheromoneState) -> Expected:
        """The mixed trail of each model; it has no width."""
        mixed = np.zeros(len(models))
        for category, share in self._shares(signals).items():
            trails = state.trails.get(category, {})
            start = max(trails.values(), default=_TRAIL_START)  # a new model begins as good as the best
            mixed += share * np.array([trails.get(model, start) for model in models])
        return Expected(quality=mixed, width=np.zeros(len(models)))

    def scores(self, quality: Numbers, weight: float, burden: Numbers) -> Numbers:
        """α ln τ + β ln η."""
        trail = self._config.trail_power * weight * np.log(np.maximum(quality, _TRAIL_MIN))
        return np.asarray(trail - self._config.cost_power * np.log(_BURDEN_LEAST + burden))

    def chances(self, scores: Numbers, found: Expected) -> Numbers:
        """In proportion to desirability."""
        del found
        return self.tendency(scores)

    def tendency(self, scores: Numbers) -> Numbers:
        """The same for each row."""
        desired = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(desired / desired.sum(axis=-1, keepdims=True))

    def uniform_share(self, state: PheromoneState) -> float:
        """The configured one."""
        del state
        return self._share

    def learn(
        self, state: PheromoneState, signals: ModelSignals, model: str, quality: float, burden: float
    ) -> PheromoneState:
        """Evaporate the trails of the category and reinforce the model's, if its answer was good enough."""
        trails = dict(state.trails)
        good = quality if quality >= self._config.quality_min else 0.0
        for category, share in self._shares(signals).items():
            if not share:
                continue
            trail = dict(trails.pop(category, {}))
            start = trail.pop(model, max(trail.values(), default=_TRAIL_START))
            if len(trail) >= self._models_max:
                del trail[next(iter(trail))]
            trail[model] = start
            fading = self._config.evaporation * share
            gain = fading * good * _BURDEN_LEAST / (_BURDEN_LEAST + burden)
            trails[category] = {
                name: max(_TRAIL_MIN, (1 - fading) * strength + (gain if name == model else 0.0))
                for name, strength in trail.items()
            }
        while len(trails) > self._categories_max + 1:
            del trails[next(category for category in trails if category != _ANYTHING)]
        return PheromoneState(trails=trails, answers=state.answers + 1)

    def fields(self, state: PheromoneState) -> dict[str, Any]:
        """For the disk."""
        return {"answers": state.answers, "trails": [[k, list(v.items())] for k, v in state.trails.items()]}

    def from_fields(self, fields: dict[str, Any]) -> PheromoneState:
        """Read `fields`."""
        try:
            trails = {
                str(category): {str(model): float(strength) for model, strength in models}
                for category, models in entry(fields, "trails", list)
            }
        except TypeError as error:
            raise ValueError("state: a trail is damaged") from error
        return PheromoneState(trails=trails, answers=entry(fields, "answers", int))

    def _shares(self, signals: ModelSignals) -> dict[str, float]:
        sure = min(max(signals.category_confidence, 0.0), 1.0)
        return {signals.category: sure, _ANYTHING: 1 - sure}
