"""The rules that are in use elsewhere do what their sources say."""

import math

import pytest

from cluster.entities.reasons import Reason
from cluster.policy.provisioning.baselines import (
    interpolation,
    ongoing_requests,
    queue_length,
    static_peak,
    utilisation,
)
from tests.unit.provisioning.world import ONE_POOL, World

# Static peak


def test_static_peak_wants_the_initial_size_whatever_happens():
    world = World(static_peak.decide)
    assert [world.step(0), world.step(10_000, backlog=500), world.step(0)] == [3, 3, 3]


def test_static_peak_without_an_initial_size_wants_the_maximum():
    data = ONE_POOL.model_dump(mode="json")
    data["pools"]["p"]["replicas"]["initial"] = None
    assert World(static_peak.decide, type(ONE_POOL).model_validate(data)).step() == 20


# Ray Serve: 7 of 10 requests per replica


def test_a_wish_to_grow_must_hold_for_thirty_seconds():
    world = World(ongoing_requests.decide)
    answers = [world.step(28) for _ in range(8)]
    assert answers == [2, 2, 2, 2, 2, 2, 4, 4]


def test_a_short_rise_is_averaged_away():
    world = World(ongoing_requests.decide)
    world.hold(60, 14)
    assert world.step(40) == 2
    assert world.hold(120, 14) == 2


def test_a_wish_to_shrink_must_hold_for_ten_minutes_and_goes_to_zero_only_from_one():
    world = World(ongoing_requests.decide, replicas=5)
    assert world.hold(595, 0) == 5
    assert world.step(0) == 5  # 595 s since the first such wish
    assert world.step(0) == 1
    assert world.hold(600, 0) == 1
    assert world.step(0) == 0


def test_a_moment_of_load_begins_the_ten_minutes_anew():
    world = World(ongoing_requests.decide, replicas=5)
    world.hold(500, 0)
    world.hold(40, 35)
    assert world.hold(590, 0) == 5


def test_requests_wake_a_pool_at_zero_without_delay():
    world = World(ongoing_requests.decide, replicas=0)
    assert world.step(0) == 0
    assert world.step(0, backlog=3) == 1


# Kubernetes' autoscaler


@pytest.mark.parametrize(
    ("ongoing", "replicas"), [(14, 2), (15, 2), (16, 3), (28, 4), (30, 5), (36, 6), (1_000, 6)]
)
def test_the_autoscaler_brings_the_metric_to_its_target_by_at_most_four(ongoing, replicas):
    # 2 replicas of 10 slots at a target of 70 %: 14 requests are what is wanted, 15.4 still tolerated.
    assert World(utilisation.decide).step(ongoing) == replicas


def test_a_large_pool_may_double():
    assert World(utilisation.decide, replicas=8).step(1_000) == 16


def test_the_fuller_of_cache_and_slots_counts():
    assert World(utilisation.decide, replicas=4).step(4, usage=0.9) == math.ceil(4 * 0.9 / 0.7)


def test_it_looks_every_fifteen_seconds():
    world = World(utilisation.decide)
    assert [world.step(1_000) for _ in range(5)] == [6, 6, 6, 12, 12]


def test_it_shrinks_to_the_largest_wish_of_five_minutes():
    world = World(utilisation.decide, replicas=10)
    world.step(70)
    world.hold(15, 48)
    assert world.hold(280, 13) == 10
    assert world.step(13) == 7
    assert world.hold(15, 13) == 2
    assert world.hold(600, 0) == 1


def test_what_starts_already_is_not_asked_for_again():
    # 2 of 4 are ready and full. On all four that would be 71 %: within the tolerance.
    assert World(utilisation.decide, replicas=4).step(20, starting=2) == 4
    # Twice as much would not be.
    assert World(utilisation.decide, replicas=4).step(40, starting=2) == 6


def test_what_drains_is_no_load():
    for rule in (utilisation, ongoing_requests, queue_length):
        world = World(rule.decide)
        assert world.hold(60, 14, waiting=10, draining=3) == 2, rule


# KEDA


def test_one_replica_for_every_five_that_wait():
    assert World(queue_length.decide).step(40, waiting=23) == 5
    assert World(queue_length.decide).step(20, backlog=23) == 5


def test_an_empty_queue_ends_in_one_replica_however_busy_they_are():
    world = World(queue_length.decide, replicas=6)
    world.step(60, waiting=30)
    assert world.hold(295, 54) == 6
    assert world.hold(20, 54) == 1


# All of them


@pytest.mark.parametrize("rule", [ongoing_requests, utilisation, queue_length, interpolation])
def test_replicas_that_are_to_go_are_named_least_work_first(rule):
    world = World(rule.decide, replicas=6)
    while world.step(3) == 6:
        assert world.decision.plan.pools[0].drain_first == ()
        assert world.now_s < 2_000.0
    target = world.decision.plan.pools[0]
    # The first three have a request each.
    assert target.drain_first[:3] == ("p-03", "p-04", "p-05")
    assert sorted(target.drain_first[3:]) == ["p-00", "p-01", "p-02"]
    assert target.reasons == (Reason.DEMAND_FALLING,)
