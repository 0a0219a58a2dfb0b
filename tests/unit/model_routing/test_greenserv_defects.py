"""What is wrong in GreenServ's published code (TZData1/llm-inference-router) and must not come back here."""

import numpy as np
import pytest

from cluster.config.model_routing import FeaturesConfig, ModelRoutingConfig
from cluster.policy.routing.models.features import FeatureMap
from cluster.policy.routing.models.linear import LinearScorer, best_probabilities
from cluster.policy.routing.models.usage import Usage, needs, with_outcome
from tests.unit.model_routing.world import candidates, outcome, policy, signals, unit

FEATURES = FeatureMap.over(FeaturesConfig(embedding_dims=8, length=False), ("code", "math"))


def scorer(rule, **linear):
    config = ModelRoutingConfig.model_validate({"policy": rule, "linear": linear})
    return LinearScorer(rule, config, FEATURES)


def requests(count, seed=0):
    chance = np.random.default_rng(seed)
    return [
        signals(
            str(chance.choice(["code", "math"])), complexity=float(chance.random()), embedding=unit(chance, 8)
        )
        for _ in range(count)
    ]


def test_1_every_band_of_complexity_has_a_dimension_of_its_own():
    bands = [FEATURES.vector(signals(complexity=value)) for value in (0.1, 0.3, 0.9)]
    assert len({tuple(band) for band in bands}) == 3
    assert all(np.count_nonzero(band) == 3 for band in bands), "constant, category, band"


def test_2_the_posterior_is_as_wide_as_bayes_rule_says():
    noise, strength = 0.25, 2.0
    thompson = scorer("thompson", noise=noise, regularisation=strength, forgetting=1.0)
    asked = requests(30)
    state = thompson.initial()
    chance = np.random.default_rng(1)
    for request in asked:
        state = thompson.learn(state, request, "m", float(chance.random()), 0.0)
    rows = np.array([FEATURES.vector(request) for request in asked])
    # quality = θᵀx + normal(0, noise²), θ ~ normal(prior, noise²/strength): the posterior of θᵀx
    precision = np.eye(FEATURES.size) * strength / noise**2 + rows.T @ rows / noise**2
    x = FEATURES.vector(signals("math", complexity=0.5, embedding=unit(chance, 8)))
    found = thompson.expected(signals("math", complexity=0.5), ["m"], state)
    x = FEATURES.vector(signals("math", complexity=0.5))
    assert found.width[0] == pytest.approx(np.sqrt(x @ np.linalg.inv(precision) @ x), rel=1e-9)


def test_2_the_chance_of_being_best_is_what_sampling_the_posterior_gives():
    means, deviations = np.array([0.6, 0.65, 0.4, 0.62]), np.array([0.1, 0.05, 0.3, 0.02])
    drawn = np.random.default_rng(0).normal(means, deviations, size=(400_000, 4))
    frequencies = np.bincount(drawn.argmax(axis=1), minlength=4) / len(drawn)
    assert best_probabilities(means, deviations) == pytest.approx(frequencies, abs=0.01)


@pytest.mark.parametrize("forgetting", [1.0, 0.995])
def test_3_the_updated_inverse_is_the_inverse(forgetting):
    linucb = scorer("linucb", forgetting=forgetting, regularisation=1.0)
    penalties = np.eye(FEATURES.size)
    asked = requests(400)
    state = linucb.initial()
    gram, response, left = penalties.copy(), np.zeros(FEATURES.size), 1.0
    for at, request in enumerate(asked):
        quality = float(at % 3 == 0)
        state = linucb.learn(state, request, "m", quality, 0.0)
        x = FEATURES.vector(request)
        gram, response, left = forgetting * gram, forgetting * response, forgetting * left
        gram += np.outer(x, x)
        response += quality * x
        if left < 0.5:
            gram += (1 - left) * penalties
            left = 1.0
    assert state.inverse[0] == pytest.approx(np.linalg.inv(gram), abs=1e-8)
    shared = linucb.expected(requests(1)[0], ["unknown"], state).quality  # what all models share pulls
    prior = np.append(0.0, (state.shared_response @ state.shared_inverse)[0, 1:])
    prior[0] = (state.level[0, 0] + 0.5) / (state.weight[0] + 1)
    assert shared[0] == pytest.approx(prior @ FEATURES.vector(requests(1)[0]), abs=0.1)
    expected = np.linalg.solve(gram, response + left * penalties @ prior)
    assert state.theta[0, 0] == pytest.approx(expected, abs=1e-8)


def test_3_the_state_does_not_grow_with_the_answers():
    routed = policy("linucb", features={"embedding_dims": 8})
    state, sizes = routed.initial(), []
    for at, request in enumerate(requests(1200)):
        state = routed.learn(state, outcome(f"m{at % 3}", 0.5, request, cost_usd=1e-4), now_s=float(at))
        if at in (300, 1199):
            sizes.append(len(routed.to_json(state)))
    assert sizes[1] < 1.02 * sizes[0]


def test_3_uncertainty_stays_bounded_where_nothing_is_ever_learnt():
    linucb = scorer("linucb", forgetting=0.99)
    state = linucb.initial()
    for _ in range(5000):
        state = linucb.learn(state, signals("code"), "m", 0.5, 0.0)
    unseen = linucb.expected(signals("math"), ["m"], state)
    assert np.isfinite(state.inverse).all()
    assert np.linalg.eigvalsh(state.inverse[0]).max() <= 2.0 + 1e-6, "at most twice the prior's"
    assert unseen.width[0] < 1.0


def test_4_an_answer_that_no_meter_caught_is_not_free():
    usage = Usage()
    for energy_j in (10.0, 20.0, 0.0):
        usage = with_outcome(usage, outcome("m", energy_j=energy_j), window=8, models_max=4)
    assert needs(usage, candidates("m")).energy_j[0] == pytest.approx(15.0)


def test_5_the_scale_needs_no_table_of_extremes_and_follows_a_change():
    usage = Usage()

    def spend(dear_usd, times):
        nonlocal usage
        for _ in range(times):
            usage = with_outcome(usage, outcome("dear", cost_usd=dear_usd), window=16, models_max=4)
            usage = with_outcome(usage, outcome("cheap", cost_usd=1e-4), window=16, models_max=4)
        return needs(usage, candidates("cheap", "dear")).cost

    assert spend(1e-2, 16) == pytest.approx([0.0, 1.0])
    assert spend(1e-5, 16) == pytest.approx([1.0, 0.0]), "the price fell a thousandfold"


def test_5_one_answer_out_of_all_proportion_does_not_set_the_scale():
    usage = Usage()
    for at in range(64):
        usage = with_outcome(usage, outcome("a", cost_usd=1.0 if at == 40 else 1e-4), window=64, models_max=4)
        usage = with_outcome(usage, outcome("b", cost_usd=2e-4), window=64, models_max=4)
    low_b = usage.models["b"].summary[4]
    high_a = usage.models["a"].summary[7]
    assert low_b == pytest.approx(2e-4)
    assert high_a < 2e-4


def test_5_the_scale_does_not_shrink_when_the_policy_settles_on_one_model():
    usage = Usage()
    for _ in range(8):
        usage = with_outcome(usage, outcome("dear", cost_usd=1e-2), window=16, models_max=4)
    for _ in range(500):
        usage = with_outcome(usage, outcome("cheap", cost_usd=1e-4), window=16, models_max=4)
    assert needs(usage, candidates("cheap", "dear")).cost == pytest.approx([0.0, 1.0])


def test_6_energy_is_that_of_the_shared_batch_and_changes_with_it():
    routed = policy("ridge", exploration_share=0.0, trial_share=0.0, window_answers=16)
    state = routed.initial()

    def serve(energy_a_j):
        nonlocal state
        for _ in range(16):
            state = routed.learn(state, outcome("a", 0.7, energy_j=energy_a_j), now_s=0.0)
            state = routed.learn(state, outcome("b", 0.7, energy_j=10.0), now_s=0.0)
        return routed.choose(signals(), candidates("a", "b"), state, now_s=0.0, draw=0.5).model

    assert serve(40.0) == "b", "alone in its batch, `a` takes four times as much"
    assert serve(5.0) == "a", "sixteen together take half of it each"
