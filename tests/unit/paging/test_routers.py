"""Which adapter a request gets: the four rules, chance, what may be chosen."""

import numpy as np
import pytest

from cluster.config.paging import PagingConfig
from cluster.policy.paging.routers import route
from cluster.policy.paging.statistics import Scored

SCORED = Scored(mean=np.array([0.5, 0.8, 0.75, 0.2]), width=np.array([0.1, 0.1, 0.1, 1.0]))
PRICES = np.array([0.0, 0.3, 0.2, 0.3])


def chosen(router, prices=PRICES, **settings):
    config = PagingConfig(router=router, alpha=0.1, rho=0.5, top_k=2).model_copy(update=settings)
    return route(SCORED, prices, config, draw=0.0)


def test_the_rules_differ_in_what_a_page_in_costs_them():
    assert chosen("oblivious").row == 1
    assert chosen("amortised").row == 1 or chosen("amortised").row == 2
    # .81 − .15 against .76 − .10: equal but for rounding; a dearer share decides for the cheaper one
    assert chosen("amortised", rho=0.6).row == 2
    assert chosen("amortised", rho=0.2).row == 1
    assert chosen("aware").row == 2
    assert chosen("aware", prices=np.array([0.0, 0.5, 0.5, 0.5])).row == 0
    assert chosen("oblivious").price == 0.3


def test_top_k_takes_a_resident_one_of_the_best_or_the_best():
    assert chosen("top_k").row == 1
    assert chosen("top_k", prices=np.array([0.0, 0.3, 0.0, 0.3])).row == 2
    assert chosen("top_k", top_k=3).row == 0


def test_optimism_is_reported():
    decision = chosen("oblivious", alpha=2.0)
    assert decision.row == 3
    assert decision.bonus == pytest.approx(2.0)
    assert decision.score == pytest.approx(2.2)


def test_only_what_is_allowed():
    config = PagingConfig(router="oblivious", alpha=0.1)
    allowed = np.array([True, False, False, True])
    assert route(SCORED, PRICES, config, draw=0.0, allowed=allowed).row == 0
    assert route(SCORED, PRICES, config, draw=0.0, allowed=allowed, forced=3).row == 3
    assert route(SCORED, PRICES, config, draw=0.0, allowed=allowed, forced=1).row == 0
    with pytest.raises(ValueError, match="no adapter"):
        route(SCORED, PRICES, config, draw=0.0, allowed=np.zeros(4, dtype=bool))


def test_chance_takes_each_with_the_logged_propensity():
    config = PagingConfig(router="oblivious", alpha=0.1, explore_share=0.2)
    draws = (np.arange(2000) + 0.5) / 2000
    decisions = [route(SCORED, PRICES, config, draw=draw) for draw in draws]
    for row in range(4):
        mine = [decision for decision in decisions if decision.row == row]
        assert len(mine) / 2000 == pytest.approx(mine[0].propensity, abs=1e-9)
        assert all(decision.explored == (row != 1) for decision in mine)
    assert route(SCORED, PRICES, config, draw=0.5, forced=2).explored
