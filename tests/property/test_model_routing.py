"""Invariants of model routing.

1. Only a usable candidate is chosen; one is chosen whenever one is usable.
2. Propensities are those of the usable candidates, none is negative, and they sum to one.
3. They are exact: over evenly spread draws every model is chosen as often as its propensity says.
4. Equal input gives an equal choice.
5. The order of the candidates does not change what is likely.
6. Two rules that are accepted without a word never both fit a request, unless one lies inside the other.
"""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.config.model_routing import ModelRoutingConfig
from cluster.entities.model_routing import Goal, ModelCandidate, ModelOutcome, ModelSignals
from cluster.policy.routing.models.policies import model_policy
from cluster.policy.routing.models.static import fits
from tests.examples import examples

CATEGORIES = ("code", "math")
MODELS = ("a", "b", "c", "d")
POLICIES = ("static", "category_map", "cluster", "ridge", "linucb", "thompson", "epsilon", "pheromone")
GRID = 80

QUALITY = st.one_of(st.none(), st.floats(0, 1))
SIGNALS = st.builds(
    ModelSignals,
    goal=st.sampled_from(Goal),
    tenant=st.sampled_from(["t", "u"]),
    category=st.sampled_from([*CATEGORIES, "other"]),
    category_confidence=st.floats(0, 1),
    complexity=st.floats(0, 1),
    embedding=st.sampled_from([(), (1.0, 0.0, 0.0), (0.0, 0.6, 0.8)]),
)
OUTCOMES = st.builds(
    ModelOutcome,
    decision_id=st.just("d"),
    model=st.sampled_from(MODELS),
    signals=SIGNALS,
    propensity=st.just(0.5),
    quality=QUALITY,
    cost_usd=st.floats(0, 1e-2),
    energy_j=st.floats(0, 1e3),
    latency_s=st.floats(0, 10),
    counted=st.booleans(),
    at_s=st.just(0.0),
)
CANDIDATES = st.lists(
    st.builds(
        ModelCandidate,
        model=st.sampled_from(MODELS),
        cost_usd=st.one_of(st.just(0.0), st.floats(1e-6, 1e-2)),
        energy_j=st.one_of(st.just(0.0), st.floats(1e-2, 1e3)),
        ttft_s=st.floats(0, 5),
        usable=st.booleans(),
    ),
    unique_by=lambda candidate: candidate.model,
    max_size=4,
)
BUDGETS = st.sampled_from(
    [{}, {"usd_per_request": 1e-3}, {"j_per_request": 50.0, "per_tenant": {"usd_per_request": 1e-4}}]
)


@st.composite
def situations(draw):
    name = draw(st.sampled_from(POLICIES))
    scores = name not in ("static", "category_map")
    config = ModelRoutingConfig.model_validate(
        {
            "policy": name,
            "category_map": {"experts": {"code": "c"}},
            "features": {"embedding_dims": 3},
            "exploration_share": draw(st.sampled_from([0.0, 0.05])),
            "trial_answers": draw(st.sampled_from([0, 3])),
            "budgets": draw(BUDGETS) if scores else {},
        }
    )
    policy = model_policy(config, MODELS, categories=CATEGORIES)
    state = policy.initial()
    for outcome in draw(st.lists(OUTCOMES, max_size=5)):
        state = policy.learn(state, outcome, now_s=0.0)
    return policy, state, draw(SIGNALS), draw(CANDIDATES)


@settings(max_examples=examples(50))
@given(situations(), st.floats(0, 1, exclude_max=True))
def test_the_chosen_model_is_usable_and_propensities_are_a_distribution(situation, draw):
    policy, state, signals, candidates = situation
    choice = policy.choose(signals, candidates, state, now_s=0.0, draw=draw)
    usable = {candidate.model for candidate in candidates if candidate.usable}
    assert choice.reasons
    if not usable:
        assert (choice.model, choice.propensities) == (None, {})
        return
    assert choice.model in usable
    assert set(choice.propensities) == usable
    assert min(choice.propensities.values()) >= 0
    assert sum(choice.propensities.values()) == pytest.approx(1.0)
    assert choice.propensity > 0
    assert choice == policy.choose(signals, candidates, state, now_s=0.0, draw=draw)


@settings(max_examples=examples(25))
@given(situations())
def test_propensities_are_how_often_models_are_chosen(situation):
    policy, state, signals, candidates = situation
    draws = (np.arange(GRID) + 0.5) / GRID
    choices = [policy.choose(signals, candidates, state, now_s=0.0, draw=float(draw)) for draw in draws]
    chosen = Counter(choice.model for choice in choices)
    for model, propensity in choices[0].propensities.items():
        # each model's draws are one stretch; its ends may cut off half a step each
        assert chosen[model] / GRID == pytest.approx(propensity, abs=1.01 / GRID)


@settings(max_examples=examples(50))
@given(situations())
def test_the_order_of_candidates_changes_nothing_that_is_likely(situation):
    policy, state, signals, candidates = situation
    mixed = candidates[::-1]
    one = policy.choose(signals, candidates, state, now_s=0.0, draw=0.5)
    other = policy.choose(signals, mixed, state, now_s=0.0, draw=0.5)
    scores = sorted(one.scores.values(), reverse=True)
    if len(scores) > 1 and scores[0] - scores[1] < 1e-9:
        return  # of equal scores the first candidate wins
    assert other.propensities == pytest.approx(one.propensities)


@given(st.one_of(st.floats(max_value=-1e-9), st.floats(min_value=1.0), st.just(float("nan"))))
def test_a_draw_outside_its_range_is_refused(outside):
    policy = model_policy(ModelRoutingConfig(policy="linucb"), MODELS)
    with pytest.raises(ValueError, match="draw"):
        policy.choose(
            ModelSignals(tenant="t"), [ModelCandidate(model="a")], policy.initial(), now_s=0.0, draw=outside
        )


RANGES = st.builds(
    lambda low, width: {"at_least": low, **({"below": low + width} if width else {})},
    st.integers(0, 5),
    st.integers(0, 4),
)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "category": st.lists(st.sampled_from(["code", "math", "other"]), min_size=1, max_size=2, unique=True),
        "tools": st.booleans(),
        "turns": RANGES,
        "hints": st.fixed_dictionaries(
            {}, optional={"tier": st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=2, unique=True)}
        ),
    },
)


@given(st.lists(CONDITIONS, min_size=1, max_size=4))
def test_accepted_rules_can_each_apply_and_never_cross_unsaid(conditions):
    rules = [
        {"name": f"r{index}", "when": when, "use": [f"m{index}"]} for index, when in enumerate(conditions)
    ]
    every = [
        ModelSignals(tenant="t", category=category, tools=tools, turns=turns, hints=hints)
        for category in ("code", "math", "other", "law")
        for tools in (True, False)
        for turns in range(11)
        for hints in ((), (("tier", "x"),), (("tier", "y"),), (("tier", "z"),))
    ]
    try:
        config = ModelRoutingConfig.model_validate({"rules": rules})
    except ValidationError:
        config = None
    parsed = [ModelRoutingConfig.model_validate({"rules": [rule]}).rules[0].when for rule in rules]
    taken_by = [[fits(when, signals) for signals in every] for when in parsed]
    first = [next((n for n, taken in enumerate(taken_by) if taken[at]), None) for at in range(len(every))]
    dead = any(n not in first for n in range(len(rules)))
    crossing = any(
        any(
            a and b and first[at] == n for at, (a, b) in enumerate(zip(taken_by[n], taken_by[m], strict=True))
        )
        and not all(b for a, b in zip(taken_by[n], taken_by[m], strict=True) if a)
        for n in range(len(rules))
        for m in range(n + 1, len(rules))
    )
    assert (config is None) == (dead or crossing)
