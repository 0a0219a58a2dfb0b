"""How long a decision takes: eight models, 64 features, embedding not counted."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from cluster.config.model_routing import BudgetsConfig, FeaturesConfig, ModelPolicyName, ModelRoutingConfig
from cluster.entities.model_routing import ModelCandidate, ModelOutcome, ModelSignals
from cluster.policy.routing.models.categories import CATEGORIES
from cluster.policy.routing.models.policies import model_policy

MODELS = 8
FEATURES = 64
_EMBEDDING = 384
_WARM_UP = 400
_DECISIONS = 2000


def decision_times(policies: list[ModelPolicyName], seed: int) -> Iterator[dict[str, Any]]:
    """One row per policy, with and without a budget: times of one decision, and of learning from one."""
    for policy in policies:
        for paced in (False, True):
            if not (paced and policy in ("static", "category_map")):
                yield _row(policy, seed, paced=paced)


def _row(policy_name: ModelPolicyName, seed: int, *, paced: bool) -> dict[str, Any]:
    # a constant, the categories, three bands of complexity, two of length, and the rest for the embedding
    embedding_dims = FEATURES - 1 - len(CATEGORIES) - 3 - 2
    config = ModelRoutingConfig(
        policy=policy_name,
        features=FeaturesConfig(embedding_dims=embedding_dims),
        budgets=BudgetsConfig(
            usd_per_request=3e-4 if paced else None, j_per_request=100.0 if paced else None
        ),
    )
    models = tuple(f"model-{n}" for n in range(MODELS))
    policy = model_policy(config, models)
    state = policy.initial()
    chance = np.random.default_rng(seed)
    candidates = [
        ModelCandidate(model=model, cost_usd=1e-4 * (n + 1), energy_j=20.0 * (n + 1), ttft_s=0.1)
        for n, model in enumerate(models)
    ]
    choosing, learning = [], []
    for at in range(_WARM_UP + _DECISIONS):
        signals = _signals(chance)
        draw = float(chance.random())
        began_s = time.perf_counter()
        choice = policy.choose(signals, candidates, state, now_s=float(at), draw=draw)
        chosen_s = time.perf_counter()
        outcome = ModelOutcome(
            decision_id=str(at),
            model=str(choice.model),
            signals=signals,
            propensity=choice.propensity,
            quality=float(chance.random()),
            cost_usd=1e-4,
            energy_j=20.0,
            latency_s=1.0,
            at_s=float(at),
        )
        learns_s = time.perf_counter()
        state = policy.learn(state, outcome, now_s=float(at))
        if at >= _WARM_UP:
            choosing.append(chosen_s - began_s)
            learning.append(time.perf_counter() - learns_s)
    p50, p99 = np.quantile(choosing, (0.5, 0.99))
    return {
        "case": f"decision-time-{MODELS}x{FEATURES}",
        "policy": policy.name,
        "seed": seed,
        "p50_s": float(p50),
        "p99_s": float(p99),
        "learn_p50_s": float(np.quantile(learning, 0.5)),
    }


def _signals(chance: np.random.Generator) -> ModelSignals:
    embedding = chance.normal(size=_EMBEDDING)
    return ModelSignals(
        tenant="benchmark",
        category=str(chance.choice(CATEGORIES)),
        category_confidence=0.8,
        prompt_tokens=int(chance.integers(1, 4000)),
        complexity=float(chance.random()),
        embedding=tuple((embedding / np.linalg.norm(embedding)).tolist()),
    )
