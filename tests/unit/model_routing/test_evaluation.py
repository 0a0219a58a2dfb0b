"""Off-policy estimates: right on logs whose truth is known, and silent where the log cannot tell."""

from dataclasses import replace

import numpy as np
import pytest

from cluster.entities.model_routing import ModelCandidate, ModelChoice
from cluster.policy.routing.models.evaluation import LoggedChoice, Overlap, evaluate_policy
from tests.unit.model_routing.world import policy, signals

MODELS = ("a", "b")
TRUTH = {"code": {"a": 0.3, "b": 0.8}, "math": {"a": 0.9, "b": 0.4}}


class Fixed:
    """A policy that gives the same propensities for a category, whatever it is told."""

    name = "fixed"

    def __init__(self, by_category):
        self.by_category = by_category

    def choose(self, request, _offered, _state, **_chance_and_time):
        return ModelChoice(model="a", policy=self.name, propensities=self.by_category[request.category])


BEST = Fixed({"code": {"a": 0.0, "b": 1.0}, "math": {"a": 1.0, "b": 0.0}})


def log(size, chance_of_a=0.5, *, seed=0):
    chance = np.random.default_rng(seed)
    records = []
    for _ in range(size):
        category = "code" if chance.random() < 0.5 else "math"
        chosen = "a" if chance.random() < chance_of_a else "b"
        records.append(
            LoggedChoice(
                signals=signals(category),
                candidates=tuple(ModelCandidate(model=model) for model in MODELS),
                propensities={"a": chance_of_a, "b": 1 - chance_of_a},
                chosen=chosen,
                reward=float(chance.random() < TRUTH[category][chosen]),
            )
        )
    return records


def evaluate(records, target, **changes):
    return evaluate_policy(records, target, None, now_s=0.0, seed=1, resamples=200, **changes)


def test_every_estimator_finds_the_value_of_a_policy_that_never_ran():
    found = evaluate(log(3000, 0.3), BEST)
    assert found.tells
    for estimate in (found.ips, found.snips, found.dr):
        assert estimate.low < 0.85 < estimate.high
        assert estimate.value == pytest.approx(0.85, abs=0.05)
    assert found.logged.value == pytest.approx(
        0.5 * (0.3 * 0.3 + 0.7 * 0.8) + 0.5 * (0.3 * 0.9 + 0.7 * 0.4), abs=0.03
    )


def test_intervals_cover_the_truth_about_as_often_as_they_claim():
    covered = {"ips": 0, "snips": 0, "dr": 0}
    for seed in range(40):
        found = evaluate(log(400, 0.4, seed=seed), BEST)
        for name in covered:
            estimate = getattr(found, name)
            covered[name] += estimate.low <= 0.85 <= estimate.high
    assert all(34 <= times <= 40 for times in covered.values()), covered


def test_a_reward_model_narrows_the_interval():
    found = evaluate(log(2000, 0.3), BEST)
    assert found.dr.high - found.dr.low < found.ips.high - found.ips.low


def test_a_log_that_never_did_it_cannot_tell():
    records = [replace(entry, propensities={"a": 1.0, "b": 0.0}) for entry in log(500, 1.0)]
    found = evaluate(records, BEST)
    assert found.overlap is Overlap.UNSUPPORTED_CHOICES
    assert not found.tells
    assert found.unsupported_share == pytest.approx(0.5, abs=0.06)


def test_a_log_that_did_it_a_few_times_cannot_tell():
    found = evaluate(log(600, 0.99), Fixed({name: {"a": 0.0, "b": 1.0} for name in TRUTH}))
    assert found.overlap is Overlap.TOO_FEW_EFFECTIVE_SAMPLES
    assert found.effective_samples < 50


def test_effective_samples_of_the_logging_policy_itself_are_all():
    found = evaluate(log(300, 0.5), Fixed({name: {"a": 0.5, "b": 0.5} for name in TRUTH}))
    assert found.effective_samples == pytest.approx(300)
    assert found.ips == found.snips == found.logged


def test_equal_seeds_give_equal_intervals():
    records = log(300)
    assert evaluate(records, BEST) == evaluate(records, BEST)


def test_a_log_made_by_a_policy_of_ours_evaluates_itself_rightly():
    routed = policy("thompson", models=MODELS)
    chance = np.random.default_rng(0)
    records = []
    for _ in range(400):
        request = signals("code" if chance.random() < 0.5 else "math")
        offered = tuple(ModelCandidate(model=model) for model in MODELS)
        choice = routed.choose(request, offered, routed.initial(), now_s=0.0, draw=float(chance.random()))
        reward = float(chance.random() < TRUTH[request.category][choice.model])
        records.append(
            LoggedChoice(
                signals=request,
                candidates=offered,
                propensities=choice.propensities,
                chosen=choice.model,
                reward=reward,
            )
        )
    found = evaluate_policy(records, routed, routed.initial(), now_s=0.0, seed=0, resamples=50)
    assert found.effective_samples == pytest.approx(400)
    assert found.ips.value == pytest.approx(found.logged.value)


def test_nothing_can_be_said_of_an_empty_log():
    with pytest.raises(ValueError, match="no judged choice"):
        evaluate([], BEST)


def test_a_choice_that_could_not_have_been_made_is_a_damaged_log():
    records = log(20)
    records[7] = replace(records[7], propensities={"a": 0.0, "b": 0.0})
    with pytest.raises(ValueError, match="record 7"):
        evaluate(records, BEST)
