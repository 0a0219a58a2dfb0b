"""A cascade begins with the cheapest model of the best plan, and now and then with another one."""

import pytest

from cluster.config.model_routing import CascadeConfig, ModelRoutingConfig
from cluster.entities.reasons import Reason
from cluster.policy.routing.models.cascade import CascadeOption
from cluster.policy.routing.models.cascade_start import first_model


def option(model, *, quality=0.5, cost_usd=0.001, ttft_s=0.1, usable=True):
    return CascadeOption(model=model, quality=quality, cost_usd=cost_usd, ttft_s=ttft_s, usable=usable)


def start(*options, share=0.0, draw=0.0, slo_s=2.0):
    config = ModelRoutingConfig(exploration_share=share, cascade=CascadeConfig(enabled=True))
    return first_model(options, config, policy="linucb", ttft_slo_s=slo_s, draw=draw)


def test_of_a_plan_with_two_models_the_cheaper_one_is_first():
    choice = start(option("dear", cost_usd=0.01), option("cheap"))
    assert choice.model == "cheap"
    assert choice.policy == "linucb+cascade"
    assert choice.propensities == {"dear": 0.0, "cheap": 1.0}
    assert choice.reasons == (Reason.BETTER_MODEL_EXPECTED,)


def test_the_draw_picks_from_exactly_the_propensities():
    options = (option("dear", cost_usd=0.01), option("cheap"), option("gone", usable=False))
    picked = [start(*options, share=0.5, draw=n / 100).model for n in range(100)]
    choice = start(*options, share=0.5)
    assert choice.propensities == {"dear": 0.25, "cheap": 0.75}
    assert {name: picked.count(name) / 100 for name in set(picked)} == choice.propensities
    assert start(*options, share=0.5, draw=0.1).reasons == (Reason.EXPLORED,)


def test_without_a_usable_model_there_is_none():
    choice = start(option("gone", usable=False))
    assert (choice.model, choice.reasons) == (None, (Reason.NO_MODEL,))


@pytest.mark.parametrize("draw", [-0.1, 1.0])
def test_a_draw_outside_its_range_is_refused(draw):
    with pytest.raises(ValueError, match="draw"):
        start(option("a"), draw=draw)
