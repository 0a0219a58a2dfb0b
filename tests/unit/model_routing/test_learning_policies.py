"""Policies that learn: they find the better models, follow changes, stay bounded and survive a restart."""

import json

import numpy as np
import pytest

from cluster.config.model_routing import FeaturesConfig, ModelRoutingConfig
from cluster.entities.model_routing import Goal
from cluster.entities.reasons import Reason
from cluster.policy.routing.models.features import FeatureMap
from cluster.policy.routing.models.needs_model import NeedsModel
from cluster.policy.routing.models.usage import Usage, needs, with_outcome
from tests.unit.model_routing.world import (
    CATEGORIES,
    COST_USD,
    MODELS,
    World,
    candidates,
    outcome,
    policy,
    signals,
    unit,
)

FEATURES = FeatureMap.over(FeaturesConfig(), CATEGORIES)
LEARNING = ("cluster", "ridge", "linucb", "thompson", "epsilon", "pheromone")


@pytest.mark.parametrize("name", ["ridge", "linucb", "thompson", "epsilon", "cluster"])
def test_policies_leave_the_worst_model(name):
    _, _, chosen, _ = World().run(policy(name), 600)
    assert chosen[300:].count("cheap") < 60


def test_the_category_decides_where_models_differ_by_it():
    quality = {"cheap": (0.9, 0.1), "middle": (0.1, 0.9), "dear": (0.3, 0.3)}
    earned, _, _, _ = World(quality=quality).run(policy("linucb"), 800)
    assert earned > 0.75


def test_pheromone_prefers_the_trail_of_good_answers():
    _, _, chosen, _ = World(cost_usd=dict.fromkeys(MODELS, 1e-4)).run(policy("pheromone"), 1500)
    assert chosen[750:].count("dear") > chosen[750:].count("cheap") * 2


@pytest.mark.parametrize("name", ["linucb", "thompson"])
def test_a_model_that_becomes_worse_is_left(name):
    world, routed = World(), policy(name, linear={"forgetting": 0.99})
    _, _, before, state = world.run(routed, 500)
    favourite = max(MODELS, key=before[250:].count)
    world.quality[favourite] = [0.05, 0.05]
    _, _, after, _ = world.run(routed, 500, seed=1, state=state)
    assert before[250:].count(favourite) > 100
    assert after[300:].count(favourite) < 20


def test_a_model_that_is_added_is_tried_and_taken_if_it_is_better():
    world, routed = World(), policy("linucb")
    _, _, chosen, state = world.run(routed, 300, models=("cheap", "middle"))
    assert "dear" not in chosen
    _, _, chosen, _ = world.run(routed, 600, seed=1, state=state)
    assert chosen[300:].count("dear") > 60


def test_a_model_that_is_gone_is_not_chosen():
    world, routed = World(), policy("linucb")
    _, _, _, state = world.run(routed, 200)
    _, _, chosen, _ = world.run(routed, 100, seed=1, state=state, models=("cheap", "middle"))
    assert set(chosen) <= {"cheap", "middle"}


def test_what_a_prompt_means_for_every_model_is_learnt_from_all_of_them():
    """Three models that fail at mathematics say of a fourth what it has not shown itself."""
    routed = policy("linucb", exploration_share=0.0)
    state = routed.initial()
    for _ in range(40):
        for model in ("a", "b", "c"):
            for category, quality in (("code", 0.9), ("math", 0.1)):
                state = routed.learn(state, outcome(model, quality, signals(category)), now_s=0.0)
    for _ in range(3):
        state = routed.learn(state, outcome("d", 0.9, signals("code")), now_s=0.0)
    found = {
        category: routed.expected_quality(signals(category), ["d", "unheard of"], state)
        for category in ("code", "math")
    }
    for model in ("d", "unheard of"):
        assert found["code"][model] - found["math"][model] > 0.3


def test_a_prompt_that_makes_one_model_talk_is_expected_to_make_another_talk():
    routed = policy("linucb")
    state = routed.initial()
    for at in range(120):
        category = ("code", "math")[at % 2]
        cost_usd = {"code": 1e-4, "math": 4e-4}[category]
        state = routed.learn(state, outcome("a", 0.5, signals(category), cost_usd=cost_usd), now_s=0.0)
    for _ in range(4):
        state = routed.learn(state, outcome("b", 0.5, signals("code"), cost_usd=1e-3), now_s=0.0)
    factors = {
        category: NeedsModel(ModelRoutingConfig(), FEATURES).factors(signals(category), ["b"], state.needs)
        for category in ("code", "math")
    }
    assert factors["math"][0, 0] > 1.5 * factors["code"][0, 0]


def test_a_changed_price_is_known_after_four_answers():
    usage = Usage()
    for at in range(40):
        usage = with_outcome(usage, outcome("m", cost_usd=(1e-3, 2e-3)[at % 2]), window=64, models_max=4)
    assert needs(usage, candidates("m")).cost_usd[0] == pytest.approx(1.5e-3)
    for _ in range(4):
        usage = with_outcome(usage, outcome("m", cost_usd=3e-2), window=64, models_max=4)
    assert needs(usage, candidates("m")).cost_usd[0] == pytest.approx(3e-2)
    assert usage.models["m"].count == 44


def test_one_bad_first_answer_is_not_the_last():
    routed = policy("ridge")
    state = routed.learn(routed.initial(), outcome("dear", 0.0), now_s=0.0)
    choice = routed.choose(signals(), candidates("cheap", "dear"), state, now_s=0.0, draw=0.0)
    assert choice.propensities["dear"] >= 0.1


def test_nobody_leads_before_it_was_tried():
    """The model that stands first in the file must not get everything because it was asked first."""
    routed = policy("ridge", exploration_share=0.0)
    state = routed.initial()
    first = routed.choose(signals(), candidates(), state, now_s=0.0, draw=0.0)
    assert list(first.propensities.values()) == pytest.approx([1 / 3] * 3)
    for _ in range(4):
        state = routed.learn(state, outcome("cheap", 1.0), now_s=0.0)
    then = routed.choose(signals(), candidates(), state, now_s=0.0, draw=0.0)
    assert then.propensities["cheap"] < 0.1
    assert then.propensities["middle"] == pytest.approx(then.propensities["dear"])


def test_the_default_model_answers_where_nobody_judges():
    routed = policy("linucb", default="dear", exploration_share=0.0, trial_answers=2)
    state = routed.initial()
    fresh = routed.choose(signals(), candidates(), state, now_s=0.0, draw=0.5)
    assert fresh.propensities == pytest.approx({"cheap": 0.2 / 3, "middle": 0.2 / 3, "dear": 0.8 + 0.2 / 3})
    assert fresh.reasons == (Reason.LITTLE_KNOWN,)
    for model in MODELS * 20:
        state = routed.learn(state, outcome(model, cost_usd=COST_USD[model]), now_s=0.0)
    unjudged = routed.choose(signals(), candidates(), state, now_s=0.0, draw=0.5)
    assert unjudged.propensities["dear"] == 1.0
    gone = routed.choose(signals(), candidates("cheap", "middle"), state, now_s=0.0, draw=0.5)
    assert gone.propensities["cheap"] == 1.0
    for _ in range(3):
        for model in MODELS:
            state = routed.learn(state, outcome(model, 0.9, counted=True), now_s=0.0)
    judged = routed.choose(signals(), candidates(), state, now_s=0.0, draw=0.5)
    assert judged.propensities["cheap"] == 1.0
    assert judged.reasons == (Reason.HIGHEST_SCORE,)


def test_models_are_asked_evenly_until_they_were_tried():
    _, _, chosen, _ = World().run(policy("linucb", exploration_share=0.0, trial_answers=16), 48)
    assert all(12 <= chosen.count(model) <= 20 for model in MODELS)


def test_trials_end_where_nobody_judges():
    routed = policy("ridge", exploration_share=0.0, trial_answers=2)
    state = routed.initial()
    for model in MODELS * 20:
        state = routed.learn(state, outcome(model, cost_usd=1e-5 if model == "cheap" else 1e-3), now_s=0.0)
    choice = routed.choose(signals(), candidates(), state, now_s=0.0, draw=0.5)
    assert choice.propensities["cheap"] == 1.0


def test_goals_shift_what_is_paid_for_quality():
    quality = {"cheap": (0.7, 0.7), "middle": (0.72, 0.72), "dear": (0.85, 0.85)}
    routed = policy("linucb", exploration_share=0.0)
    _, _, _, state = World(quality=quality).run(policy("linucb", exploration_share=0.9), 900)
    shares = {}
    for goal in Goal:
        picked = [
            routed.choose(
                signals(goal=goal, embedding=unit(np.random.default_rng(n), 8)),
                candidates(),
                state,
                now_s=0.0,
                draw=0.5,
            ).model
            for n in range(50)
        ]
        shares[goal] = picked.count("dear") / 50
    assert shares[Goal.QUALITY] > 0.5
    assert shares[Goal.CHEAP] < 0.2


def test_what_the_caller_predicts_counts_more_than_what_was_seen():
    routed = policy("ridge", exploration_share=0.0, trial_share=0.0)
    state = routed.initial()
    for model in ("cheap", "dear"):
        state = routed.learn(state, outcome(model, 0.5, cost_usd=1e-3, energy_j=1.0), now_s=0.0)
    offered = [*candidates("cheap", cost_usd=5e-3), *candidates("dear", cost_usd=1e-6)]
    assert routed.choose(signals(), offered, state, now_s=0.0, draw=0.5).model == "dear"


def test_an_outcome_without_quality_teaches_only_what_it_took():
    routed = policy("linucb")
    before = routed.initial()
    after = routed.learn(before, outcome("cheap", cost_usd=1e-3), now_s=0.0)
    assert after.scorer.answers == 0
    assert after.usage.models["cheap"].count == 1


def test_an_outcome_that_was_counted_before_teaches_only_its_quality():
    routed = policy("linucb", budgets={"usd_per_request": 1e-3})
    state = routed.learn(routed.initial(), outcome("cheap", cost_usd=1e-3), now_s=0.0)
    judged = routed.learn(state, outcome("cheap", 1.0, cost_usd=1e-3, counted=True), now_s=0.0)
    assert judged.usage == state.usage
    assert judged.pacer == state.pacer
    assert judged.scorer.answers == 1


def test_a_judged_outcome_of_a_model_whose_usage_is_forgotten_is_learnt():
    routed = policy("pheromone")
    state = routed.learn(routed.initial(), outcome("gone", 1.0, counted=True), now_s=0.0)
    assert state.judged == {"gone": 1}


@pytest.mark.parametrize("name", LEARNING)
def test_an_older_state_is_not_changed_by_learning(name):
    routed = policy(name, budgets={"usd_per_request": 1e-4, "per_tenant": {"j_per_request": 50.0}})
    _, _, _, state = World().run(routed, 40)
    before = routed.to_json(state)
    World().run(routed, 40, seed=1, state=state)
    assert routed.to_json(state) == before


@pytest.mark.parametrize("name", LEARNING)
def test_a_state_read_back_chooses_and_learns_the_same(name):
    routed = policy(name, budgets={"usd_per_request": 1e-4, "per_tenant": {"j_per_request": 50.0}})
    _, _, _, state = World().run(routed, 120)
    read = routed.from_json(routed.to_json(state))
    assert routed.to_json(read) == routed.to_json(state)
    assert World().run(routed, 60, seed=2, state=state)[2] == World().run(routed, 60, seed=2, state=read)[2]


@pytest.mark.parametrize("name", LEARNING)
def test_damaged_states_are_refused(name):
    routed = policy(name)
    _, _, _, state = World().run(routed, 30)
    whole = json.loads(routed.to_json(state))
    other = policy("ridge" if name != "ridge" else "linucb")
    damaged = [b"", b"[]", b"{}", routed.to_json(state)[:-20], other.to_json(other.initial())]
    damaged += [
        json.dumps({**whole, **change}).encode()
        for change in ({"format": 1}, {"scorer": {}}, {"usage": {"m": {}}}, {"pacer": {}}, {"judged": [1]})
    ]
    for data in damaged:
        with pytest.raises(ValueError, match="state"):
            routed.from_json(data)


def test_a_state_of_other_features_is_refused():
    small, large = (policy("linucb", features={"embedding_dims": dims}) for dims in (4, 8))
    _, _, _, state = World().run(small, 30)
    with pytest.raises(ValueError, match="shape"):
        large.from_json(small.to_json(state))


@pytest.mark.parametrize("name", LEARNING)
def test_memory_is_bounded_in_models_and_categories(name):
    routed = policy(name, models_max=5, categories_max=4, budgets={"usd_per_request": 1.0, "tenants_max": 3})
    state = routed.initial()
    sizes = []
    for at in range(300):
        request = signals(
            f"category-{at}", tenant=f"tenant-{at}", embedding=unit(np.random.default_rng(at), 8)
        )
        state = routed.learn(state, outcome(f"model-{at % 17}", 0.5, request, cost_usd=1e-4), now_s=float(at))
        if at % 10 == 9:
            sizes.append(len(routed.to_json(state)))
    assert len(state.judged) <= 5
    assert len(state.usage.models) <= 5
    assert len(state.pacer.accounts) <= 4
    assert sizes[-1] < 1.1 * max(sizes[:-3])


def test_a_choice_says_whether_it_was_chance():
    routed = policy("ridge", exploration_share=0.3, trial_share=0.0)
    state = routed.initial()
    for _ in range(20):
        for model, quality in (("cheap", 0.0), ("dear", 1.0)):
            state = routed.learn(state, outcome(model, quality), now_s=0.0)
    offered = candidates("cheap", "dear")
    by_draw = {draw: routed.choose(signals(), offered, state, now_s=0.0, draw=draw) for draw in (0.01, 0.5)}
    assert by_draw[0.01].model == "cheap"
    assert by_draw[0.01].reasons == (Reason.EXPLORED,)
    assert by_draw[0.01].propensity == pytest.approx(0.15)
    assert by_draw[0.5].reasons == (Reason.HIGHEST_SCORE,)
    assert by_draw[0.5].propensity == pytest.approx(0.85)
