"""Rules that name a model: what fits, what is refused before anything starts."""

import pytest

from cluster.config import ConfigError, parse_config
from cluster.config.model_routing import ModelRoutingConfig
from cluster.entities.model_routing import Goal
from cluster.entities.reasons import Reason
from cluster.policy.routing.models.policies import model_policy
from tests.unit.model_routing.world import candidates, policy, signals

CLUSTER = """
models: {a: {source: some/a}, b: {source: some/b}}
pools: {pa: {model: a}, pb: {model: b}}
routing: {models: {rules: %s}}
"""


def refused(*rules):
    with pytest.raises(ValueError) as caught:
        ModelRoutingConfig.model_validate({"rules": list(rules)})
    return str(caught.value)


def accepted(*rules):
    return ModelRoutingConfig.model_validate({"rules": list(rules)})


def choose(rules, request, *usable, default=None):
    routed = policy("static", rules=list(rules), default=default)
    chosen = routed.choose(request, candidates(*usable), None, now_s=0.0, draw=0.5)
    return chosen.model, chosen.reasons


CODE = {"name": "code", "when": {"category": ["code"]}, "use": ["dear"]}
LONG = {"name": "long", "when": {"prompt_tokens": {"at_least": 4000}}, "use": ["middle"]}


def test_the_first_rule_that_fits_names_the_model():
    assert choose([CODE], signals("code")) == ("dear", (Reason.RULE_MATCHED,))


def test_a_request_that_no_rule_fits_goes_to_the_default():
    assert choose([CODE], signals("math"), default="middle") == ("middle", (Reason.NO_RULE_MATCHED,))


def test_without_a_default_the_first_model_answers():
    assert choose([CODE], signals("math"))[0] == "cheap"


def test_the_next_preference_answers_while_the_first_cannot():
    rule = {**CODE, "use": ["dear", "middle"]}
    assert choose([rule], signals("code"), "cheap", "middle") == (
        "middle",
        (Reason.RULE_MATCHED, Reason.MODEL_UNUSABLE),
    )


def test_nobody_usable_is_said():
    routed = policy("static", rules=[CODE])
    chosen = routed.choose(signals(), candidates(usable=False), None, now_s=0.0, draw=0.5)
    assert (chosen.model, chosen.reasons) == (None, (Reason.NO_MODEL,))


@pytest.mark.parametrize(
    ("when", "fitting", "other"),
    [
        ({"language": ["de"]}, {"language": "de"}, {"language": "en"}),
        ({"goal": ["cheap"]}, {"goal": Goal.CHEAP}, {"goal": Goal.QUALITY}),
        ({"tools": True}, {"tools": True}, {"tools": False}),
        ({"turns": {"at_least": 3}}, {"turns": 3}, {"turns": 2}),
        ({"prompt_tokens": {"below": 100}}, {"prompt_tokens": 99}, {"prompt_tokens": 100}),
        (
            {"complexity": {"at_least": 0.2, "below": 0.5}},
            {"complexity": 0.2},
            {"complexity": 0.5},
        ),
        ({"hints": {"tier": ["gold"]}}, {"hints": (("tier", "gold"),)}, {"hints": ()}),
    ],
)
def test_every_kind_of_condition_is_looked_at(when, fitting, other):
    rule = {"name": "r", "when": when, "use": ["dear"]}
    assert choose([rule], signals(**fitting))[0] == "dear"
    assert choose([rule], signals(**other))[0] == "cheap"


def test_a_rule_behind_a_catch_all_is_dead():
    message = refused({"name": "all", "use": ["a"]}, CODE)
    assert "rules.1 (code): can never apply" in message
    assert "taken by: all" in message


def test_a_rule_that_several_earlier_ones_cover_together_is_dead():
    short = {"name": "short", "when": {"prompt_tokens": {"below": 4000}}, "use": ["a"]}
    assert "rules.2 (code): can never apply" in refused(short, LONG, CODE)


def test_a_gap_of_one_value_keeps_a_rule_alive():
    short = {"name": "short", "when": {"prompt_tokens": {"below": 3999}}, "use": ["a"]}
    assert accepted(short, LONG, {**CODE, "after": ["short", "long"]})


def test_crossing_rules_are_refused_with_an_example():
    message = refused(CODE, LONG)
    assert "rules.1 (long): 'code' above also fits some of its requests" in message
    assert "category code" in message
    assert "prompt_tokens 4000" in message


def test_crossing_rules_are_accepted_if_the_order_is_said_to_be_meant():
    assert accepted(CODE, {**LONG, "after": ["code"]})


def test_an_exception_before_the_general_rule_needs_no_words():
    narrow = {"name": "narrow", "when": {"category": ["code"], "tools": True}, "use": ["b"]}
    assert accepted(narrow, CODE)


def test_crossing_rules_with_the_same_models_do_not_matter():
    assert accepted(CODE, {**LONG, "use": CODE["use"]})


def test_rules_of_different_hints_cross():
    gold = {"name": "gold", "when": {"hints": {"tier": ["gold"]}}, "use": ["a"]}
    eu = {"name": "eu", "when": {"hints": {"region": ["eu"]}}, "use": ["b"]}
    assert "'gold' above also fits" in refused(gold, eu)


def test_the_same_hint_with_other_values_does_not_cross():
    gold = {"name": "gold", "when": {"hints": {"tier": ["gold"]}}, "use": ["a"]}
    tin = {"name": "tin", "when": {"hints": {"tier": ["tin"]}}, "use": ["b"]}
    assert accepted(gold, tin)


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({**CODE, "after": ["nothing"]}, "after names no other rule: nothing"),
        ({**CODE, "use": []}, "use"),
        ({**CODE, "when": {"prompt_tokens": {"at_least": 5, "below": 5}}}, "must be larger than at_least"),
        ({**CODE, "when": {"hints": {"tier": []}}}, "hints.tier: no value fits"),
        ({**CODE, "when": {"categry": ["code"]}}, "categry"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(rule, complaint):
    assert complaint in refused(rule)


def test_two_rules_of_one_name_are_refused():
    assert "the name stands twice" in refused(CODE, {**CODE, "when": {"category": ["math"]}})


def test_the_message_names_the_path_in_the_file():
    with pytest.raises(ConfigError) as caught:
        parse_config(CLUSTER % "[{name: all, use: [a]}, {name: late, use: [b]}]")
    assert "routing.models: rules.1 (late): can never apply" in str(caught.value)


def test_a_rule_for_a_model_that_is_not_served_is_refused():
    with pytest.raises(ConfigError, match=r"routing.models.rules.0.use: no model 'c'; models has: a, b"):
        parse_config(CLUSTER % "[{name: all, use: [c]}]")


def test_a_rule_for_a_category_that_does_not_exist_is_refused():
    config = accepted({"name": "r", "when": {"category": ["cooking"]}, "use": ["a"]})
    with pytest.raises(ValueError, match=r"rules.0.when.category: no category 'cooking'"):
        model_policy(config, ("a",))


def test_a_budget_needs_a_policy_that_scores():
    with pytest.raises(ValueError, match="static does not score models"):
        ModelRoutingConfig.model_validate({"budgets": {"usd_per_request": 1e-3}})


def test_the_expert_of_a_category_answers_what_is_certain():
    routed = policy("category_map", category_map={"experts": {"code": "dear"}, "fallback": "middle"})

    def asked(request):
        return routed.choose(request, candidates(), None, now_s=0.0, draw=0.0)

    assert asked(signals("code")).model == "dear"
    assert asked(signals("code")).propensity == 1.0
    unsure = asked(signals("code", category_confidence=0.4))
    assert (unsure.model, unsure.reasons) == ("middle", (Reason.CATEGORY_UNCERTAIN,))
    assert asked(signals("math")).model == "middle"
