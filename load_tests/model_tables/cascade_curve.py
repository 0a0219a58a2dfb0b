"""Quality against money of a cascade whose judge errs.

The judge says of every answer whether it is good, and is wrong with the given probability, independently. Its
grade is the probability that the answer is good given the verdict, its error rate and what a ridge on the
first half of the table expected of that prompt (Bayes), so that it is graded although the verdict is not.
What an answer will cost is expected from the prompt as well, as in a router. The curve is drawn by the
quality that a dollar must buy; where it passes the quality of the dearest model is read off between its
points. Against it: each model always, the ridge that chooses before any answer is seen, and chance. A judge's
own price is not counted.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cluster.config.model_routing import CascadeConfig, ModelPolicyName, WeightsConfig
from cluster.entities.model_routing import Goal
from cluster.policy.routing.models.cascade import CascadeOption, JudgedAnswer, next_step
from cluster.policy.routing.models.features import FeatureMap
from cluster.policy.routing.models.ridge_bank import RidgeRules, fitted
from load_tests.model_tables.cases import Row, Trial, configuration, offline, row
from load_tests.model_tables.play import played
from load_tests.model_tables.table import Numbers, net_value

JUDGE_ERRORS = (0.0, 0.1, 0.2, 0.3)
_QUALITY_PER_USD_SPAN = (0.03, 1.0)
"""Quality per mean price of the dearest model between which the curve is drawn."""
_POINTS = 11
_FACTOR_SPAN = (0.1, 10.0)
"""Of an answer's usual price; what a ridge says beyond is no price."""
_GOOD = 0.5
_CERTAIN = 1e-6
_ONLY_QUALITY = WeightsConfig(quality=1.0, cost=0.0, energy=0.0, latency=0.0)


def cascade(trial: Trial, policies: Sequence[ModelPolicyName]) -> Iterator[Row]:
    """Rows per judge error and point of the curve, after those of the policies that choose beforehand."""
    yield from offline(trial, policies)
    expected, expected_usd = _expected(trial), _expected_usd(trial)
    prices = np.geomspace(*_QUALITY_PER_USD_SPAN, _POINTS) / trial.fit.cost_usd.mean(axis=0).max()
    for error in JUDGE_ERRORS:
        good = trial.test.quality >= _GOOD
        wrong = np.random.default_rng([trial.seed, 4]).random(good.shape) < error
        grades = _grades(expected, good ^ wrong, error)
        curve: list[Row] = []
        for point, price in enumerate(prices, 1):
            config = CascadeConfig(
                models_max=min(len(trial.test.models), 8),
                quality_per_usd=float(price),
                gain_min=0.0,
                sigma_before=0.45,
                sigma_after=max(0.45 * (error * (1 - error)) ** 0.5, 0.02),
            )
            found = _along(trial, config, expected=expected, grades=grades, expected_usd=expected_usd)
            curve.append({**found, "judge_error": error, "point": point})
        reached = _cost_at(trial, curve)
        yield from ({**found, **reached} for found in curve)


def _cost_at(trial: Trial, curve: Sequence[Row]) -> Row:
    """Share of its cost at which the curve reaches the dearest model's quality, if it does."""
    wanted = float(trial.test.quality[:, np.argmax(trial.test.cost_usd.mean(axis=0))].mean())
    rising = sorted(curve, key=lambda found: float(found["cost_over_dearest"]))
    for below, above in pairwise(rising):
        if below["quality"] < wanted <= above["quality"]:
            share = (wanted - below["quality"]) / (above["quality"] - below["quality"])
            gap = above["cost_over_dearest"] - below["cost_over_dearest"]
            return {"cost_over_dearest_at_its_quality": below["cost_over_dearest"] + share * gap}
    return {}


def _along(
    trial: Trial,
    config: CascadeConfig,
    *,
    expected: Numbers,
    grades: Numbers,
    expected_usd: Numbers,
) -> Row:
    table = trial.test
    final = np.zeros(len(table), dtype=np.intp)
    cost_usd, energy_j, asked = np.zeros(len(table)), np.zeros(len(table)), np.zeros(len(table))
    for at in range(len(table)):
        answers: list[JudgedAnswer] = []
        while True:
            options = [
                CascadeOption(
                    model=model,
                    quality=float(expected[at, n]),
                    cost_usd=float(expected_usd[at, n]),
                    ttft_s=0.0,
                )
                for n, model in enumerate(table.models)
            ]
            step = next_step(answers, options, config, elapsed_s=0.0, ttft_slo_s=1.0)
            if step.model is None:
                break
            column = table.models.index(step.model)
            answers.append(JudgedAnswer(model=step.model, quality=float(grades[at, column])))
            cost_usd[at] += table.cost_usd[at, column]
            energy_j[at] += table.energy_j[at, column]
        final[at] = table.models.index(str(step.answer))
        asked[at] = len(answers)
    value = net_value(table, _ONLY_QUALITY)
    result = played(table, final, value.max(axis=1), value)
    return {
        **row(trial, "cascade", "cascade", result),
        "cost_usd": float(cost_usd.mean()),
        "energy_j": float(energy_j.mean()),
        "quality_per_usd": config.quality_per_usd,
        "models_asked_mean": float(asked.mean()),
        "cost_over_dearest": float(cost_usd.mean() / table.cost_usd.mean(axis=0).max()),
    }


def _expected(trial: Trial) -> Numbers:
    """Quality that a ridge on the first half expects of every answer in the second."""
    return np.clip(_foreseen(trial, trial.fit.quality), 0.02, 0.98)


def _expected_usd(trial: Trial) -> Numbers:
    """Money that a ridge on the first half expects every answer in the second to take."""
    usual = trial.fit.cost_usd.mean(axis=0)
    return np.asarray(usual * np.clip(_foreseen(trial, trial.fit.cost_usd / usual), *_FACTOR_SPAN))


def _foreseen(trial: Trial, known: Numbers) -> Numbers:
    """What a ridge on the first half says of the second, by prompt and model."""
    config = configuration("ridge", _ONLY_QUALITY, with_category=trial.with_category)
    features = FeatureMap.over(config.features, tuple(sorted(set(trial.fit.categories))))
    fit_rows, test_rows = (
        np.array([features.vector(signals) for signals in half])
        for half in trial.signals("ridge", Goal.QUALITY)
    )
    rules = RidgeRules(
        size=features.size,
        prior=np.array([known.mean()]),
        regularisation=config.linear.regularisation,
        own_penalty=1.0,
        forgetting=1.0,
        models_max=len(trial.fit.models),
    )
    every = range(len(trial.fit))
    answers = {model: (every, known[:, column]) for column, model in enumerate(trial.fit.models)}
    bank = fitted(rules, fit_rows, answers, weight=1.0)
    return np.column_stack(
        [test_rows @ bank.theta[bank.models.index(model), 0] for model in trial.test.models]
    )


def _grades(expected: Numbers, said_good: NDArray[np.bool_], error: float) -> Numbers:
    """The probability that an answer is good, given the verdict."""
    error = min(max(error, _CERTAIN), 1 - _CERTAIN)
    right_if_good = np.where(said_good, 1 - error, error)
    right_if_bad = np.where(said_good, error, 1 - error)
    return np.asarray(expected * right_if_good / (expected * right_if_good + (1 - expected) * right_if_bad))
