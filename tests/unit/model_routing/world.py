"""Requests, models and a world that answers, made up and seeded."""

import numpy as np

from cluster.config.model_routing import ModelRoutingConfig
from cluster.entities.model_routing import ModelCandidate, ModelOutcome, ModelSignals
from cluster.policy.routing.models.policies import model_policy

CATEGORIES = ("code", "math")
MODELS = ("cheap", "middle", "dear")
COST_USD = {"cheap": 1e-5, "middle": 1e-4, "dear": 1e-3}
QUALITY = {"cheap": (0.5, 0.3), "middle": (0.85, 0.6), "dear": (0.9, 0.9)}
"""In `code` and in `math`."""


def signals(category="code", **changes):
    return ModelSignals(**{"tenant": "t", "category": category, "category_confidence": 0.9, **changes})


def candidates(*models, **changes):
    return [ModelCandidate(model=model, **changes) for model in models or MODELS]


def outcome(model, quality=None, request=None, **changes):
    return ModelOutcome(
        decision_id="d",
        model=model,
        signals=request or signals(),
        propensity=1.0,
        quality=quality,
        **{"at_s": 0.0, **changes},
    )


def policy(name="linucb", *, models=MODELS, **changes):
    config = ModelRoutingConfig.model_validate({"policy": name, **changes})
    return model_policy(config, models, categories=CATEGORIES)


class World:
    """Answers requests; models differ by category, and every answer takes what its model takes."""

    def __init__(self, cost_usd=COST_USD, quality=QUALITY):
        self.cost_usd = dict(cost_usd)
        self.quality = {model: list(values) for model, values in quality.items()}

    def run(self, routed, requests, *, seed=0, state=None, models=MODELS):
        """Mean quality, mean cost, the choices, and the state afterwards."""
        chance = np.random.default_rng(seed)
        state = routed.initial() if state is None else state
        earned, spent, chosen = 0.0, 0.0, []
        for at in range(requests):
            category = CATEGORIES[int(chance.integers(2))]
            request = signals(category, embedding=unit(chance, 8))
            choice = routed.choose(
                request, candidates(*models), state, now_s=float(at), draw=float(chance.random())
            )
            quality = float(chance.random() < self.quality[choice.model][CATEGORIES.index(category)])
            cost = self.cost_usd[choice.model]
            state = routed.learn(
                state,
                outcome(
                    choice.model,
                    quality,
                    request,
                    cost_usd=cost,
                    energy_j=1e5 * cost,
                    offered=tuple(choice.propensities),
                ),
                now_s=float(at),
            )
            earned, spent = earned + quality, spent + cost
            chosen.append(choice.model)
        return earned / requests, spent / requests, chosen, state


def unit(chance, size):
    vector = chance.normal(size=size)
    return tuple((vector / np.linalg.norm(vector)).tolist())
