"""The questions asked of every policy on a table; each gives rows of the benchmark's result.

`offline`: fitted on all models' answers to one half of the prompts, tested on the other half, nothing learnt
there. `online`: one pass along the second half with feedback, from nothing (`cold`) or from a fit on the
first half (`warm`); with `stream` whole, who starts from nothing goes along the whole table. `budgets`: the
same at seven budgets. `phases`: what a change of prices, of a model's
quality or of the models does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cluster.config.model_routing import (
    BudgetsConfig,
    CategoryMapConfig,
    FeaturesConfig,
    GoalsConfig,
    ModelPolicyName,
    ModelRoutingConfig,
    WeightsConfig,
)
from cluster.entities.model_routing import Goal, ModelSignals
from cluster.policy.routing.models.policies import model_policy
from load_tests.model_tables.play import Played, figures, play, policy_for, references, signals_of
from load_tests.model_tables.table import ModelTable, Numbers, halves
from load_tests.model_tables.text_features import FeatureKind, text_vectors

Row = dict[str, Any]

SCORING: tuple[ModelPolicyName, ...] = ("ridge", "cluster", "linucb", "thompson", "epsilon", "pheromone")
"""Policies that learn; `static` is `always:MODEL`, `category_map` is fitted offline only."""
POLICIES: tuple[ModelPolicyName, ...] = (*SCORING, "category_map")
BUDGETS = 7
_ONLY_QUALITY = WeightsConfig(quality=1.0, cost=0.0, energy=0.0, latency=0.0)
_TRADES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One table, split by one seed, as vectors of one kind."""

    table: ModelTable
    seed: int
    fit: ModelTable
    test: ModelTable
    vectors: Numbers
    """Of all prompts, in the table's order."""
    fit_vectors: Numbers
    test_vectors: Numbers
    with_category: bool
    stream: Literal["test", "whole"] = "test"
    """What a policy that starts from nothing is led along: the half that others are tested on or, since it
    needs no fit, the whole table."""

    @property
    def whole(self) -> "Trial":
        """The whole table as the stream, in a seeded order."""
        order = np.random.default_rng([self.seed, 3]).permutation(len(self.table))
        stream, vectors = self.table.of_rows(order), self.vectors[order]
        return replace(self, fit=stream, test=stream, fit_vectors=vectors, test_vectors=vectors)

    def starts(self) -> tuple[tuple[str, "Trial"], ...]:
        """From nothing and after a fit, each with what it is led along."""
        return (("cold", self.whole if self.stream == "whole" else self), ("warm", self))

    def signals(self, policy: ModelPolicyName, goal: Goal) -> tuple[list[ModelSignals], list[ModelSignals]]:
        """Signals of both halves. Policies that know nothing but the category always get the table's."""
        told = self.with_category or policy in ("pheromone", "category_map")
        return (
            signals_of(self.fit, self.fit_vectors, goal, with_category=told),
            signals_of(self.test, self.test_vectors, goal, with_category=told),
        )


def trials(
    table: ModelTable,
    seeds: Sequence[int],
    kind: FeatureKind,
    cache: Path | None,
    *,
    with_category: bool,
    stream: Literal["test", "whole"] = "test",
) -> Iterator[Trial]:
    """One trial for each seed."""
    embedded = text_vectors(table.prompts, kind, np.arange(len(table)), cache) if kind == "minilm" else None
    for seed in seeds:
        fit, test = halves(table, seed)
        vectors = embedded if embedded is not None else text_vectors(table.prompts, kind, fit)
        yield Trial(
            table=table,
            seed=seed,
            fit=table.of_rows(fit),
            test=table.of_rows(test),
            vectors=vectors,
            fit_vectors=vectors[fit],
            test_vectors=vectors[test],
            with_category=with_category,
            stream=stream,
        )


def configuration(
    policy: ModelPolicyName, weights: WeightsConfig | None, *, with_category: bool, **changes: Any
) -> ModelRoutingConfig:
    """The default configuration, but for the policy and what a case varies."""
    goals = (
        GoalsConfig() if weights is None else GoalsConfig(balanced=weights, quality=weights, cheap=weights)
    )
    features = FeaturesConfig(category=with_category)
    return ModelRoutingConfig(policy=policy, goals=goals, features=features, **changes)


def offline(trial: Trial, policies: Sequence[ModelPolicyName]) -> Iterator[Row]:
    """Full-information policies along a sweep of the weight of money (and energy alike)."""
    for name, result in references(trial.test, trial.fit, _ONLY_QUALITY, trial.seed).items():
        yield row(trial, "offline", name, result)
    for policy in policies:
        if policy == "epsilon":
            continue  # without learning it is ridge and a share of chance
        fit_signals, test_signals = trial.signals(policy, Goal.BALANCED)
        for trade in _TRADES:
            weights = WeightsConfig(quality=1.0, cost=trade, energy=0.0, latency=0.0)
            config = configuration(
                policy, weights, with_category=trial.with_category, exploration_share=0.0, trial_share=0.0
            )
            if policy == "category_map":
                chosen: Any = _expert_map(trial.fit, weights, config)
            else:
                chosen = policy_for(config, trial.fit, fit_signals, warm=True)
            result = play(chosen, trial.test, test_signals, weights, seed=trial.seed, learn=False)
            yield row(trial, "offline", policy, result, cost_weight=trade, **_gap(trial, result))


def online(trial: Trial, policies: Sequence[ModelPolicyName]) -> Iterator[Row]:
    """Learning along the stream, for each goal a caller may have."""
    for goal in Goal:
        config = configuration("linucb", None, with_category=trial.with_category)
        weights = {
            Goal.BALANCED: config.goals.balanced,
            Goal.CHEAP: config.goals.cheap,
            Goal.QUALITY: config.goals.quality,
        }[goal]
        for name, result in references(trial.test, trial.fit, weights, trial.seed).items():
            yield row(trial, f"online-{goal.value}", name, result)
        for policy in policies:
            if policy == "category_map":
                continue
            config = configuration(policy, None, with_category=trial.with_category)
            for start, led in trial.starts():
                fit_signals, test_signals = led.signals(policy, goal)
                chosen = policy_for(config, led.fit, fit_signals, warm=start == "warm")
                result = play(chosen, led.test, test_signals, weights, seed=trial.seed, learn=True)
                yield row(led, f"online-{goal.value}", policy, result, start=start)


def budgets(trial: Trial, policies: Sequence[ModelPolicyName]) -> Iterator[Row]:
    """Seven budgets, evenly spaced in logarithms between the cheapest and the dearest model."""
    yield from _budgets(trial, policies, "usd_per_request", lambda table: table.cost_usd)


def energy_budgets(trial: Trial, policies: Sequence[ModelPolicyName]) -> Iterator[Row]:
    """The same in joules."""
    yield from _budgets(trial, policies, "j_per_request", lambda table: table.energy_j)


def _budgets(
    trial: Trial, policies: Sequence[ModelPolicyName], field: str, taken: Callable[[ModelTable], Numbers]
) -> Iterator[Row]:
    means = taken(trial.fit).mean(axis=0)
    cheapest, dearest = float(means.min()), float(means.max())
    for policy in policies:
        if policy == "category_map":
            continue
        for step in range(1, BUDGETS + 1):
            budget = cheapest * (dearest / cheapest) ** (step / (BUDGETS + 1))
            for start, led in trial.starts():
                yield _at_budget(led, policy, field, taken(led.test), start=start, step=step, budget=budget)


def _at_budget(
    trial: Trial,
    policy: ModelPolicyName,
    field: str,
    costs: Numbers,
    *,
    start: str,
    step: int,
    budget: float,
) -> Row:
    config = configuration(
        policy,
        _ONLY_QUALITY,
        with_category=trial.with_category,
        budgets=BudgetsConfig.model_validate({field: budget}),
    )
    fit_signals, test_signals = trial.signals(policy, Goal.QUALITY)
    chosen = policy_for(config, trial.fit, fit_signals, warm=start == "warm")
    result = play(chosen, trial.test, test_signals, _ONLY_QUALITY, seed=trial.seed, learn=True)
    spent = float(costs[np.arange(len(costs)), result.chosen].mean())
    unit = field.split("_", maxsplit=1)[0]
    return row(
        trial,
        f"budget-{unit}-{step}",
        policy,
        result,
        start=start,
        **{f"budget_{unit}": budget},
        spent_over_budget=spent / budget,
        **_against_single(trial, costs, spent, float(result.quality.mean())),
        **_bounds(trial, costs, budget),
    )


def _against_single(trial: Trial, costs: Numbers, spent: float, quality: float) -> Row:
    """Quality above that of the best single model that costs no more than was spent."""
    affordable = costs.mean(axis=0) <= spent
    if not affordable.any():
        return {"quality_over_cheaper_single": quality, "dominated": 0}
    best = float(trial.test.quality.mean(axis=0)[affordable].max())
    return {"quality_over_cheaper_single": quality - best, "dominated": int(quality < best)}


def _bounds(trial: Trial, costs: Numbers, budget: float) -> Row:
    """What can be had without looking at prompts, and what every try of the cheapest model takes from it.

    Where the loss is larger than the gain, who starts from nothing is dominated after a few tries.
    """
    cost, quality = costs.mean(axis=0), trial.test.quality.mean(axis=0)
    within = cost <= budget
    if not within.any():
        return {}
    single, best = float(quality[within].max()), 0.0
    for cheaper in np.flatnonzero(within):
        for dearer in np.flatnonzero(~within):
            share = (budget - cost[cheaper]) / (cost[dearer] - cost[cheaper])
            best = max(best, float(quality[cheaper] + share * (quality[dearer] - quality[cheaper])))
    lost = (single - float(quality[np.argmin(cost)])) / len(trial.test)
    return {
        "two_models_mixed_over_cheaper_single": max(best - single, 0.0),
        "lost_by_a_try_of_the_cheapest": lost,
    }


def row(trial: Trial, case: str, policy: str, result: Played, **more: Any) -> Row:
    """One row of the benchmark's result, with the share of requests that each model got."""
    counts = np.bincount(np.asarray(result.chosen, dtype=np.intp), minlength=len(trial.test.models))
    shares = dict(zip(trial.test.models, (counts / len(trial.test)).tolist(), strict=True))
    return {
        "case": case,
        "policy": policy,
        "seed": trial.seed,
        **figures(result),
        **more,
        "model_shares": {model: round(share, 4) for model, share in shares.items() if share},
    }


def _gap(trial: Trial, result: Played) -> Row:
    """How much of what lies between the best single model and an oracle the policy reaches."""
    single = float(trial.test.quality.mean(axis=0).max())
    oracle = float(trial.test.quality.max(axis=1).mean())
    if oracle <= single:
        return {}  # nothing to route for
    return {"oracle_gap_closed": (float(result.quality.mean()) - single) / (oracle - single)}


def _expert_map(fit: ModelTable, weights: WeightsConfig, config: ModelRoutingConfig) -> Any:
    """Composition of Experts: per category the model of the highest mean net value on the first half."""
    scaled = fit.cost_usd.mean(axis=0) / float(np.quantile(fit.cost_usd, 0.95, axis=0).max())
    categories = np.array(fit.categories)
    experts = {
        str(category): fit.models[
            int(np.argmax(fit.quality[categories == category].mean(axis=0) - weights.cost * scaled))
        ]
        for category in set(fit.categories)
    }
    fallback = fit.models[int(np.argmax(fit.quality.mean(axis=0) - weights.cost * scaled))]
    mapped = CategoryMapConfig.model_construct(experts=experts, fallback=fallback, confidence_min=0.6)
    return model_policy(
        config.model_copy(update={"category_map": mapped}), fit.models, categories=tuple(experts)
    )


CASES: dict[str, Callable[[Trial, Sequence[ModelPolicyName]], Iterator[Row]]] = {
    "offline": offline,
    "online": online,
    "budgets": budgets,
    "energy_budgets": energy_budgets,
}
