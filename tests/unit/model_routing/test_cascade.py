"""When a cascade stops, whom it asks next, and how answers are graded."""

import math

import numpy as np
import pytest

from cluster.config.model_routing import CascadeConfig
from cluster.entities.reasons import Reason
from cluster.policy.routing.models.cascade import CascadeOption, JudgedAnswer, expected_best, next_step
from cluster.policy.routing.models.verifier import grade_by_margins, grade_by_verdict, quality_after

CONFIG = CascadeConfig(sigma_before=0.3, sigma_after=0.1, gain_min=0.02, quality_per_usd=10.0)


def option(model, quality, cost_usd=1e-3, ttft_s=0.2, *, usable=True):
    return CascadeOption(model=model, quality=quality, cost_usd=cost_usd, ttft_s=ttft_s, usable=usable)


def step(answers, options, *, elapsed_s=0.0, ttft_slo_s=2.0, config=CONFIG):
    given = [JudgedAnswer(model=model, quality=quality) for model, quality in answers.items()]
    return next_step(given, options, config, elapsed_s=elapsed_s, ttft_slo_s=ttft_slo_s)


def test_the_mean_of_the_best_of_two_is_the_known_formula():
    means, deviations = np.array([0.5, 0.7]), np.array([0.3, 0.1])
    spread = math.hypot(*deviations)
    gap = (means[0] - means[1]) / spread
    below = 0.5 * (1 + math.erf(gap / math.sqrt(2)))
    density = math.exp(-(gap**2) / 2) / math.sqrt(2 * math.pi)
    exact = means[0] * below + means[1] * (1 - below) + spread * density
    assert expected_best(means, deviations) == pytest.approx(exact, abs=2e-3)


def test_the_mean_of_the_best_of_three_is_what_sampling_gives():
    means, deviations = np.array([0.5, 0.6, 0.55]), np.array([0.3, 0.15, 0.2])
    drawn = np.random.default_rng(0).normal(means, deviations, size=(400_000, 3)).max(axis=1)
    assert expected_best(means, deviations) == pytest.approx(drawn.mean(), abs=3e-3)


def test_a_good_answer_ends_the_cascade():
    done = step({"small": 0.95}, [option("large", 0.8, 2e-2)])
    assert (done.model, done.answer, done.reasons) == (None, "small", (Reason.ANSWER_GOOD_ENOUGH,))


def test_a_poor_answer_asks_the_better_model():
    done = step({"small": 0.2}, [option("large", 0.8, 2e-2)])
    assert (done.model, done.answer, done.reasons) == ("large", "small", (Reason.BETTER_MODEL_EXPECTED,))


def test_what_a_better_answer_is_worth_depends_on_its_price():
    assert step({"small": 0.2}, [option("large", 0.8, 2e-1)]).model is None


def test_a_better_model_that_would_miss_the_objective_is_not_asked():
    late = step({"small": 0.2}, [option("large", 0.8, 2e-2, ttft_s=1.5)], elapsed_s=1.0)
    assert (late.model, late.reasons) == (None, (Reason.BETTER_MODEL_TOO_SLOW,))


def test_a_worse_pool_that_is_in_time_is_asked_instead():
    options = [option("large", 0.9, 2e-2, ttft_s=1.5), option("medium", 0.7, 1e-2, ttft_s=0.1)]
    assert step({"small": 0.2}, options, elapsed_s=1.0).model == "medium"


def test_the_first_model_is_asked_even_if_all_are_late():
    assert step({}, [option("small", 0.5, ttft_s=9.0)]).model == "small"


def test_a_model_that_has_answered_or_cannot_is_not_asked():
    options = [option("small", 0.9), option("large", 0.9, usable=False)]
    assert step({"small": 0.2}, options).model is None


def test_without_any_model_there_is_no_answer():
    nobody = step({}, [option("large", 0.9, usable=False)])
    assert (nobody.model, nobody.answer, nobody.reasons) == (None, None, (Reason.NO_MODEL,))


def test_a_plan_of_two_begins_with_the_cheaper():
    options = [option("large", 0.6, 2e-2), option("small", 0.6, 1e-4)]
    assert step({}, options).model == "small"


def test_no_more_models_are_asked_than_allowed():
    answers = {"a": 0.1, "b": 0.1}
    assert step(answers, [option("c", 0.99, 1e-6)]).model is None
    roomy = CascadeConfig(models_max=3)
    assert step(answers, [option("c", 0.99, 1e-6)], config=roomy).model == "c"


def test_the_best_of_several_answers_is_sent():
    assert step({"a": 0.3, "b": 0.6}, []).answer == "b"


def test_a_judged_answer_must_be_known_better_than_one_not_given():
    with pytest.raises(ValueError, match="sigma_after"):
        CascadeConfig(sigma_before=0.2, sigma_after=0.2)


def test_a_few_guessed_tokens_among_certain_ones_lower_the_grade():
    certain, guessed = [5.0] * 40, [5.0] * 36 + [0.1] * 4
    assert grade_by_margins(certain, CONFIG) == 1.0
    assert grade_by_margins(guessed, CONFIG) == pytest.approx((4 * 0.05 + 4 * 1.0) / 8)


def test_the_grade_is_graded():
    grades = [grade_by_margins([margin] * 10, CONFIG) for margin in (0.0, 0.5, 1.0, 2.0, 9.0)]
    assert grades == [0.0, 0.25, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("margins", [[], [1.0, -0.1]])
def test_margins_that_cannot_be_are_refused(margins):
    with pytest.raises(ValueError, match="token"):
        grade_by_margins(margins, CONFIG)


def test_a_verdict_is_a_probability():
    assert grade_by_verdict(math.log(0.6), math.log(0.2)) == pytest.approx(0.75)
    assert grade_by_verdict(-1e6, 0.0) == pytest.approx(0.0)


def test_a_grade_moves_the_expectation_by_what_it_narrows_it():
    # precisions add: 1/0.1² = 1/0.3² + 1/s², so the grade has 8 of 9 parts of the weight
    assert quality_after(0.6, 0.9, CONFIG) == pytest.approx((0.6 + 8 * 0.9) / 9)
