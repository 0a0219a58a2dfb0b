"""The integer program, against an exhaustive search."""

from dataclasses import replace
from itertools import product

import pytest
from scipy.optimize import OptimizeResult

from cluster.policy.provisioning import commitment
from cluster.policy.provisioning.commitment import Flow, Holding, PoolColumn, Program, commit


def _pool(name, *, usd, low=0, high=5, present=0, start=0.0, watts=100.0):
    return PoolColumn(
        pool=name,
        replicas_min=low,
        replicas_max=high,
        present=present,
        usd_per_h=usd,
        start_usd_per_h=start,
        watts=watts,
    )


def _program(demand, *, pools=None, **more):
    pools = pools or (_pool("big", usd=1.0, watts=300.0), _pool("small", usd=0.3, watts=80.0))
    flows = tuple(
        Flow(demand=0, uses=((place, 1.0 / rate),), usd_per_h=0.001, watts=1.0)
        for place, rate in enumerate((10.0, 2.0))
    )
    return Program(pools=pools, demands_per_s=(demand,), penalties_usd_per_h=(100.0,), flows=flows, **more)


@pytest.mark.parametrize("demand", [0.0, 0.5, 2.0, 3.9, 7.0, 10.0, 12.1, 25.0, 41.0])
def test_it_finds_what_trying_everything_finds(demand):
    program = _program(demand)
    best = min(
        (
            big * 1.0 + small * 0.3
            for big, small in product(range(6), range(6))
            if big * 10 + small * 2 >= demand - 1e-9
        )
    )
    found = commit(program)
    assert sum(n * p.usd_per_h for n, p in zip(found.replicas, program.pools, strict=True)) == pytest.approx(
        best
    )
    assert found.unserved_per_s == (0.0,)


def test_more_than_all_pools_carry_is_left_unserved():
    found = commit(_program(100.0))
    assert found.replicas == (5, 5)
    assert found.unserved_per_s[0] == pytest.approx(40.0)


def test_what_is_there_stays_where_a_start_costs_more_than_it_saves():
    pools = (_pool("big", usd=1.0, present=1), _pool("small", usd=0.3, start=0.5))
    assert commit(_program(3.0, pools=pools)).replicas == (1, 0)


def test_the_cap_is_hard_and_the_demand_gives_way():
    found = commit(_program(30.0, power_cap_w=400.0))
    assert found.power_w <= 400.0
    assert found.unserved_per_s[0] > 0


def test_where_not_even_the_minimum_fits_it_is_the_minimum():
    pools = (_pool("big", usd=1.0, low=2, watts=300.0), _pool("small", usd=0.3, watts=80.0))
    found = commit(_program(30.0, pools=pools, power_cap_w=100.0))
    assert found.replicas == (2, 0)
    assert found.capped


def test_prompts_and_answers_are_balanced_between_their_pools():
    pools = (_pool("prefill", usd=1.0), _pool("decode", usd=1.0))
    flow = Flow(demand=0, uses=((0, 0.1), (1, 0.4)), usd_per_h=0.0, watts=0.0)
    program = Program(pools=pools, demands_per_s=(10.0,), penalties_usd_per_h=(100.0,), flows=(flow,))
    assert commit(program).replicas == (1, 4)


def test_requests_under_way_have_a_seat():
    holding = Holding(requests=50.0, seats=((0, 20.0), (1, 4.0)), penalty_usd_per_h=10.0)
    found = commit(replace(_program(1.0), holdings=(holding,)))
    assert found.replicas[0] * 20 + found.replicas[1] * 4 >= 50
    assert found.standing == pytest.approx(0.0)


@pytest.mark.parametrize(("cap_w", "replicas"), [(None, (3, 5)), (1_500.0, (3, 5)), (500.0, (0, 1))])
def test_a_solver_that_gives_up_takes_nothing_away_but_for_a_cap(monkeypatch, cap_w, replicas):
    monkeypatch.setattr(commitment, "milp", lambda *_, **__: OptimizeResult(x=None, status=4))
    pools = (
        _pool("big", usd=1.0, watts=300.0, present=3),
        _pool("small", usd=0.3, watts=80.0, low=1, present=9),
    )
    found = commit(_program(12.5, pools=pools, power_cap_w=cap_w))
    assert found.replicas == replicas
    assert found.capped, "the plan says that it is none"
    commitment._optimum.cache_clear()


def test_a_solver_whose_time_is_over_leaves_what_is_there_and_is_asked_again():
    pools = (_pool("big", usd=1.0, present=3), _pool("small", usd=0.3, low=1, present=9))
    program = _program(12.75, pools=pools)
    stopped = commit(program, limit_s=1e-9)
    assert (stopped.replicas, stopped.stopped) == ((3, 5), True)
    assert commit(program, limit_s=1e-9).stopped
    in_time = commit(program)
    assert not in_time.stopped
    assert in_time.replicas == commit(program, limit_s=60.0).replicas != stopped.replicas


def test_the_best_that_was_found_in_time_is_taken(monkeypatch):
    """What HiGHS says when it has an integer solution and no proof that it is the best."""
    real = commitment.milp

    def interrupted(*arguments, **options):
        found = real(*arguments, **options)
        found.status, found.success = 1, False
        return found

    monkeypatch.setattr(commitment, "milp", interrupted)
    found = commit(_program(12.375), limit_s=5.0)
    assert found.stopped
    assert found.replicas[0] * 10 + found.replicas[1] * 2 >= 12.375
    assert not found.capped
    assert found.unserved_per_s == (0.0,)
