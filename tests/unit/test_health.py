"""A failing replica is left alone for longer each time, and forgiven at once."""

import pytest

from cluster.config.routing import ReplicaRoutingConfig
from cluster.policy.routing.replicas.health import ReplicaHealth, after_failure, after_success

CONFIG = ReplicaRoutingConfig(put_aside_first_s=0.5, put_aside_max_s=4.0)
MIDDLE = 0.5  # the draw that leaves the time as it is


def test_the_time_aside_doubles_up_to_its_bound():
    health, times_s, now_s = ReplicaHealth(), [], 10.0
    for _ in range(6):
        health = after_failure(health, CONFIG, now_s=now_s, draw=MIDDLE)
        times_s.append(health.put_aside_until_s - now_s)
        now_s = health.put_aside_until_s
    assert times_s == pytest.approx([0.5, 1.0, 2.0, 4.0, 4.0, 4.0])
    assert health.failures == 6


def test_the_draw_spreads_it_by_a_quarter_each_way():
    def aside_s(draw):
        return after_failure(ReplicaHealth(), CONFIG, now_s=0.0, draw=draw).put_aside_until_s

    assert aside_s(0.0) == pytest.approx(0.375)
    assert aside_s(0.999999) == pytest.approx(0.625, abs=1e-5)


def test_all_requests_that_die_with_an_engine_are_one_failure():
    first = after_failure(ReplicaHealth(), CONFIG, now_s=10.0, draw=MIDDLE)
    assert after_failure(first, CONFIG, now_s=10.2, draw=MIDDLE) == first
    assert after_failure(first, CONFIG, now_s=10.5, draw=MIDDLE).failures == 2


def test_a_success_forgives_everything():
    failed = ReplicaHealth(failures=5, put_aside_until_s=99.0)
    assert after_success(failed) == ReplicaHealth()


def test_a_thousand_failures_do_not_overflow():
    health = ReplicaHealth(failures=100_000)
    assert after_failure(health, CONFIG, now_s=0.0, draw=MIDDLE).put_aside_until_s == pytest.approx(4.0)


@pytest.mark.parametrize("draw", [-0.01, 1.0])
def test_a_draw_outside_the_unit_interval_is_an_error(draw):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        after_failure(ReplicaHealth(), CONFIG, now_s=0.0, draw=draw)
