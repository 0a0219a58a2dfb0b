"""A stream in three equal parts: before a change, with it, and after it is taken back.

`price_drop`: the dearest model's answers take a thirtieth, and the configured prices say so, as a router
would read them: before every request, each model's mean price on the first half of the table times what has
become of it. `unsaid_price_drop`: nobody says so. `regression`: the best model's answers lose a
quarter of their quality. `new_model`: the second best model exists from the second part on. Warm start; a
budget of money lies between the two dearest models. Reported for each part, and after how many requests of
the second and third the policy's choices are within a tenth of where that part's last fifth settles.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster.config.model_routing import BudgetsConfig, ModelPolicyName, WeightsConfig
from cluster.entities.model_routing import Goal
from load_tests.model_tables.cases import Row, Trial, configuration
from load_tests.model_tables.play import Played, play, policy_for
from load_tests.model_tables.table import ModelTable, Numbers

_PRICE_FACTOR = 1 / 30
_QUALITY_FACTOR = 0.75
_WINDOW = 30
_SETTLED_SHARE = 0.2
_TOLERANCE = 0.1


def phases(trial: Trial, policies: Sequence[ModelPolicyName]) -> Iterator[Row]:
    """Rows per change, policy, with and without a budget, and part."""
    size = len(trial.test)
    bounds = (0, size // 3, 2 * size // 3, size)
    middle = np.zeros(size, dtype=bool)
    middle[bounds[1] : bounds[2]] = True
    weights = WeightsConfig(quality=1.0, cost=0.05, energy=0.0, latency=0.0)
    means = np.sort(trial.fit.cost_usd.mean(axis=0))
    budget = float(np.sqrt(means[-1] * means[-2]))
    listed = np.tile(trial.fit.cost_usd.mean(axis=0), (size, 1))
    for change, (table, watched, hidden_until) in _changes(trial.test, middle, bounds[1]).items():
        told_usd = None
        if change == "price_drop":
            told_usd = listed.copy()
            told_usd[middle, watched] *= _PRICE_FACTOR
        for policy in policies:
            if policy == "category_map":
                continue
            fit_signals, test_signals = trial.signals(policy, Goal.BALANCED)
            for paced in (False, True):
                config = configuration(
                    policy,
                    weights,
                    with_category=trial.with_category,
                    budgets=BudgetsConfig(usd_per_request=budget if paced else None),
                )
                known = [m for m in table.models if not hidden_until or m != table.models[watched]]
                chosen = policy_for(config, trial.fit.of_models(known), fit_signals, warm=True)
                result = play(
                    chosen,
                    table,
                    test_signals,
                    weights,
                    seed=trial.seed,
                    learn=True,
                    offered=_offer(len(table.models), watched, hidden_until),
                    told_usd=told_usd,
                )
                name = f"{policy}+budget_pacer" if paced else policy
                yield from _parts(
                    trial,
                    change,
                    name,
                    result=result,
                    watched=watched,
                    bounds=bounds,
                    budget=budget if paced else None,
                )


def _changes(
    table: ModelTable, middle: NDArray[np.bool_], second: int
) -> dict[str, tuple[ModelTable, int, int]]:
    dearest = int(np.argmax(table.cost_usd.mean(axis=0)))
    ranked = np.argsort(-table.quality.mean(axis=0))
    best, runner_up = int(ranked[0]), int(ranked[1])
    cost_usd, quality = table.cost_usd.copy(), table.quality.copy()
    cost_usd[middle, dearest] *= _PRICE_FACTOR
    quality[middle, best] *= _QUALITY_FACTOR
    cheaper = replace(table, cost_usd=cost_usd)
    return {
        "price_drop": (cheaper, dearest, 0),
        "unsaid_price_drop": (cheaper, dearest, 0),
        "regression": (replace(table, quality=quality), best, 0),
        "new_model": (table, runner_up, second),
    }


def _offer(models: int, hidden: int, until: int) -> Callable[[int], Sequence[int]]:
    def offered(row: int) -> Sequence[int]:
        return [column for column in range(models) if row >= until or column != hidden]

    return offered


def _parts(
    trial: Trial,
    change: str,
    policy: str,
    *,
    result: Played,
    watched: int,
    bounds: Sequence[int],
    budget: float | None,
) -> Iterator[Row]:
    for part in range(3):
        rows = slice(bounds[part], bounds[part + 1])
        taken = (np.asarray(result.chosen)[rows] == watched).astype(np.float64)
        yield {
            "case": f"phases-{change}",
            "policy": policy,
            "seed": trial.seed,
            "part": part + 1,
            "quality": float(result.quality[rows].mean()),
            "cost_usd": float(result.cost_usd[rows].mean()),
            "energy_j": float(result.energy_j[rows].mean()),
            "regret": float(result.regret[rows].sum()),
            "regret_per_request": float(result.regret[rows].mean()),
            "watched_share": float(taken.mean()),
            "settled_after_requests": _settled(taken),
            **({} if budget is None else {"spent_over_budget": float(result.cost_usd[rows].mean()) / budget}),
        }


def _settled(taken: Numbers) -> int:
    """Requests until the moving share of the watched model first comes close to where it ends."""
    end = float(taken[-int(len(taken) * _SETTLED_SHARE) :].mean())
    moving = np.convolve(taken, np.ones(_WINDOW) / _WINDOW, mode="valid")
    close = np.flatnonzero(np.abs(moving - end) <= _TOLERANCE)
    return int(close[0]) + _WINDOW if len(close) else len(taken)
