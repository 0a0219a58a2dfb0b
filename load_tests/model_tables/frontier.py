"""Accuracy against energy: GreenServ's claim (arXiv 2601.17551) asked of a table with energies by model size.

One pass with feedback, at rising weights of energy and with budgets of energy: `cold` along the whole table
from nothing, `warm` along one half after a fit on the other. Against them chance, the smallest, the largest,
the best single model and who knows all answers.
"""

from collections.abc import Iterator, Sequence

from cluster.config.model_routing import BudgetsConfig, ModelPolicyName, WeightsConfig
from cluster.entities.model_routing import Goal
from load_tests.model_tables.cases import Row, Trial, configuration, row
from load_tests.model_tables.play import Played, play, policy_for, references, signals_of

_ENERGY_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_ENERGY_SHARES_OF_RANDOM = (0.5, 0.7, 1.0)
_HALF = WeightsConfig(quality=0.5, cost=0.0, energy=0.5, latency=0.0)
"""GreenServ's reward at λ = 0.5."""


def frontier(trial: Trial, policies: Sequence[ModelPolicyName]) -> Iterator[Row]:
    """Rows per policy and weight of energy; `*_over_random` are the claim's two figures."""
    for stream, start in ((trial.whole, "cold"), (trial, "warm")):
        chance = references(stream.test, stream.fit, _HALF, trial.seed)
        for name, result in chance.items():
            yield row(stream, "frontier", name, result, start=start, **_against(result, chance["random"]))
        for policy in policies:
            if policy != "category_map":
                yield from _sweep(stream, policy, chance["random"], start)


def _sweep(stream: Trial, policy: ModelPolicyName, chance: Played, start: str) -> Iterator[Row]:
    fit_signals, signals = stream.signals(policy, Goal.BALANCED)
    told = stream.with_category or policy == "pheromone"
    random_j = float(chance.energy_j.mean())
    points: list[tuple[float, float | None]] = [(weight, None) for weight in _ENERGY_WEIGHTS]
    points += [(0.0, share * random_j) for share in _ENERGY_SHARES_OF_RANDOM]
    for weight, budget_j in points:
        config = configuration(
            policy,
            WeightsConfig(quality=1.0, cost=0.0, energy=weight, latency=0.0),
            with_category=told,
            budgets=BudgetsConfig(j_per_request=budget_j),
        )
        chosen = policy_for(config, stream.fit, fit_signals, warm=start == "warm")
        result = play(chosen, stream.test, signals, _HALF, seed=stream.seed, learn=True)
        more: Row = {"start": start, "energy_weight": weight, **_against(result, chance)}
        if budget_j is not None:
            more |= {"budget_j": budget_j, "spent_over_budget": float(result.energy_j.mean()) / budget_j}
        yield row(stream, "frontier", chosen.name, result, **more)


def order(trial: Trial, policies: Sequence[ModelPolicyName]) -> Iterator[Row]:
    """Regret of every policy at GreenServ's reward, λ = 0.5, along the whole table from nothing."""
    whole = trial.whole
    for name, result in references(whole.test, whole.test, _HALF, trial.seed).items():
        yield row(whole, "order", name, result)
    for policy in policies:
        if policy == "category_map":
            continue
        told = trial.with_category or policy == "pheromone"
        signals = signals_of(whole.test, whole.test_vectors, Goal.BALANCED, with_category=told)
        chosen = policy_for(configuration(policy, _HALF, with_category=told), whole.test, signals, warm=False)
        yield row(
            whole, "order", policy, play(chosen, whole.test, signals, _HALF, seed=trial.seed, learn=True)
        )


def _against(result: Played, chance: Played) -> Row:
    return {
        "accuracy_over_random": float(result.quality.mean() / chance.quality.mean()),
        "energy_over_random": float(result.energy_j.mean() / chance.energy_j.mean()),
    }
