"""Lets a policy choose along a table, and counts what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cluster.config.model_routing import ModelRoutingConfig, WeightsConfig
from cluster.entities.model_routing import (
    FeedbackSource,
    Goal,
    ModelCandidate,
    ModelOutcome,
    ModelSignals,
)
from cluster.policy.routing.models.complexity import complexity_of
from cluster.policy.routing.models.interface import ModelPolicy
from cluster.policy.routing.models.policies import scored_policy
from cluster.policy.routing.models.scored import Example, ScoredPolicy
from load_tests.model_tables.table import ModelTable, Numbers, net_value

TENANT = "benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What was chosen, in the order of the table's rows."""

    chosen: Numbers
    """Column of the model."""
    quality: Numbers
    cost_usd: Numbers
    energy_j: Numbers
    regret: Numbers
    """Best net value of the models on offer, less that of the chosen one."""


def signals_of(table: ModelTable, vectors: Numbers, goal: Goal, *, with_category: bool) -> list[ModelSignals]:
    """What the router would know of every prompt."""
    return [
        ModelSignals(
            goal=goal,
            tenant=TENANT,
            category=category if with_category else "other",
            category_confidence=1.0 if with_category else 0.0,
            prompt_tokens=int(tokens),
            complexity=complexity_of(prompt),
            embedding=tuple(vector),
        )
        for prompt, category, tokens, vector in zip(
            table.prompts, table.categories, table.prompt_tokens, vectors.tolist(), strict=True
        )
    ]


def policy_for(
    config: ModelRoutingConfig, table: ModelTable, signals: Sequence[ModelSignals], *, warm: bool
) -> ScoredPolicy[Any]:
    """A scoring policy, cold or fitted on all models' answers to the table's prompts."""
    categories = tuple(sorted(set(table.categories)))
    policy = scored_policy(config, categories=categories)
    if not warm:
        return policy
    fitted = policy.fitted(examples(table, signals), outcomes(table, signals))
    return scored_policy(config, categories=categories, warm_start=policy.to_json(fitted))


def examples(table: ModelTable, signals: Sequence[ModelSignals]) -> list[Example]:
    """Every prompt with every model's quality."""
    return [
        Example(signals=known, quality=dict(zip(table.models, row, strict=True)))
        for known, row in zip(signals, table.quality.tolist(), strict=True)
    ]


def outcomes(table: ModelTable, signals: Sequence[ModelSignals]) -> list[ModelOutcome]:
    """Every model's answers to every prompt."""
    columns = range(len(table.models))
    return [_outcome(table, signals, row, column, 1.0) for row in range(len(table)) for column in columns]


def play(
    policy: ModelPolicy[Any],
    table: ModelTable,
    signals: Sequence[ModelSignals],
    weights: WeightsConfig,
    *,
    seed: int,
    learn: bool,
    offered: Callable[[int], Sequence[int]] | None = None,
    told_usd: Numbers | None = None,
) -> Played:
    """One pass along the table, one draw per request, feedback at once.

    Args:
        policy: that chooses.
        table: its answers are handed out as chosen.
        signals: of its prompts.
        weights: of the regret.
        seed: of the draws.
        learn: whether the policy is told what came of its choices.
        offered: columns of the models that exist at a row; all if omitted.
        told_usd: what answers are said to cost beforehand, by row and column; nothing if omitted.
    """
    draws = np.random.default_rng([seed, 1]).random(len(table))
    value = net_value(table, weights)
    state = policy.initial()
    chosen = np.zeros(len(table), dtype=np.intp)
    best = np.zeros(len(table))
    for row in range(len(table)):
        columns = list(range(len(table.models))) if offered is None else list(offered(row))
        said = np.zeros(len(table.models)) if told_usd is None else told_usd[row]
        candidates = [
            ModelCandidate(model=table.models[column], cost_usd=float(said[column])) for column in columns
        ]
        choice = policy.choose(signals[row], candidates, state, now_s=float(row), draw=float(draws[row]))
        column = table.models.index(str(choice.model))
        chosen[row] = column
        best[row] = value[row, columns].max()
        if learn:
            outcome = _outcome(table, signals, row, column, choice.propensity)
            offered_models = tuple(choice.propensities)
            outcome = replace(outcome, predicted_cost_usd=float(said[column]), offered=offered_models)
            state = policy.learn(state, outcome, now_s=float(row))
    return played(table, chosen, best, value)


def played(table: ModelTable, chosen: Any, best: Numbers, value: Numbers) -> Played:
    """What these choices come to."""
    rows = np.arange(len(table))
    return Played(
        chosen=chosen,
        quality=table.quality[rows, chosen],
        cost_usd=table.cost_usd[rows, chosen],
        energy_j=table.energy_j[rows, chosen],
        regret=best - value[rows, chosen],
    )


def references(table: ModelTable, fit: ModelTable, weights: WeightsConfig, seed: int) -> dict[str, Played]:
    """What policies are measured against: chance, every single model, and who knows all answers."""
    value = net_value(table, weights)
    best = value.max(axis=1)
    size = len(table)
    drawn = np.random.default_rng([seed, 2]).integers(len(table.models), size=size)
    by_energy = np.argsort(fit.energy_j.mean(axis=0))
    picks = {
        "random": drawn,
        "smallest": np.full(size, by_energy[0]),
        "largest": np.full(size, by_energy[-1]),
        "best_single": np.full(size, int(np.argmax(fit.quality.mean(axis=0)))),
        **{f"always:{model}": np.full(size, column) for column, model in enumerate(table.models)},
        "oracle": np.argmax(value, axis=1),
        "oracle_quality": np.argmax(table.quality - 1e-9 * table.cost_usd, axis=1),
    }
    return {name: played(table, chosen, best, value) for name, chosen in picks.items()}


def figures(result: Played) -> dict[str, float]:
    """Means per request; regret also as the sum that bandit papers give."""
    return {
        "quality": float(result.quality.mean()),
        "cost_usd": float(result.cost_usd.mean()),
        "energy_j": float(result.energy_j.mean()),
        "regret": float(result.regret.sum()),
        "regret_per_request": float(result.regret.mean()),
    }


def _outcome(
    table: ModelTable, signals: Sequence[ModelSignals], row: int, column: int, propensity: float
) -> ModelOutcome:
    return ModelOutcome(
        decision_id=f"{table.name}-{row}-{column}",
        model=table.models[column],
        signals=signals[row],
        propensity=propensity,
        quality=float(table.quality[row, column]),
        source=FeedbackSource.JUDGE,
        cost_usd=float(table.cost_usd[row, column]),
        energy_j=float(table.energy_j[row, column]),
        at_s=float(row),
    )
