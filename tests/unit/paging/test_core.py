"""The pager of one node: catalogue, residency, prices, pins, what routers are told."""

import numpy as np
import pytest

from cluster.config.paging import PagingConfig
from cluster.policy.paging.core import PagerCore
from cluster.policy.paging.interface import Budget, PagedAdapter, PlanReason

D = 3
X = np.array([0.7, 0.5, 0.5])


def adapter(key, size=100, **facts):
    return PagedAdapter(key=key, bytes=size, **facts)


def core(*adapters, slots=3, byte_limit=None, **settings):
    config = PagingConfig(dimension=D, utility_per_s=0.5, page_in_s=0.2, page_in_bytes=100, **settings)
    found = PagerCore(config, Budget(slots=slots, bytes=byte_limit), source="n")
    found.set_catalogue(adapters)
    return found


def test_prices_follow_what_page_ins_took_and_where_adapters_lie():
    pager = core(adapter("a"), adapter("b", 200), adapter("c"))
    assert pager.prices().tolist() == pytest.approx([0.1, 0.2, 0.1])
    pager.paged_in("a", "disk", 0.4)
    # b was never loaded: its time goes with its bytes and what the disk needed for a's
    assert pager.prices().tolist() == pytest.approx([0.2, 0.4, 0.2])
    pager.paged_in("a", "disk", 0.9)
    assert pager.times.expected_s("disk")[0] == pytest.approx(0.4 + 0.2 * 0.5)
    variance = 0.8 * 0.2 * 0.5**2  # of the moving average, which is as sure as that of nine page-ins
    assert pager.times.least_s("disk")[0] == pytest.approx(0.5 - (variance / 9) ** 0.5)
    assert pager.times.least_s("disk")[1] == pager.times.expected_s("disk")[1]
    pager.paged_in("c", "host", 0.01)
    pager.set_tier("b", "host")
    assert pager.prices()[1] == pytest.approx(0.5 * 0.02)
    pager.loaded("b")
    assert pager.prices()[1] == 0
    assert pager.prices(loading=["a"])[0] == 0


def test_page_ins_that_stop_streams_cost_more_while_many_run():
    pager = core(adapter("a"))
    pager.paged_in("a", "disk", 0.2, stall_s=0.1)
    assert pager.prices(running=10)[0] == pytest.approx(0.5 * (0.2 + 10 * 0.2 * 0.1))


def test_room_is_made_for_bytes_and_slots_and_never_from_what_is_busy_or_pinned():
    pager = core(
        adapter("a"),
        adapter("b"),
        adapter("p", pinned=True),
        adapter("big", 250),
        byte_limit=350,
        policy="lru",
    )
    for key in ("p", "a", "b"):
        assert pager.room_for(key) == ()
        pager.requested(key, X)
        pager.loaded(key)
    assert pager.room_for("a") == ()
    assert pager.room_for("big") == ("a", "b")
    assert pager.room_for("big", busy=["b"]) is None
    assert pager.resident == ("a", "b", "p")


def test_pins_are_planned_whatever_the_policy():
    for policy in ("lru", "hybrid", "polar"):
        pager = core(adapter("a"), adapter("p", pinned=True), policy=policy)
        plan = pager.plan()
        assert plan.load == ("p",)
        assert plan.reason is PlanReason.CATALOGUE
        pager.loaded("p")
        pager.requested("a", X, named=True)
        assert pager.plan() is None or "p" in pager.planned


def test_a_restarted_node_is_told_to_load_what_it_had_planned():
    settings = {"policy": "polar", "epoch_requests": 4, "epoch_requests_max": 4}
    before = core(adapter("a"), adapter("b"), **settings)
    for _ in range(4):
        before.requested("b", X, named=True)
    assert before.plan().load == ("b",)
    after = core(adapter("a"), adapter("b"), **settings)
    after.restore(before.arrays())
    assert after.resident == ()
    assert after.plan().load == ("b",)
    assert after.plan() is None


def test_new_weights_take_over_popularity_times_and_a_part_of_the_knowledge():
    pager = core(adapter("a"), adapter("b"), policy="lfu", slots=2)
    for _ in range(5):
        pager.requested("a", X, named=True)
        pager.observe("a", X, 1.0)
    pager.paged_in("a", "disk", 0.4)
    known = pager.estimates().scored(X)
    pager.set_catalogue([adapter("b"), adapter("a2", replaces="a")])
    assert pager.keys == ("b", "a2")
    fresh = pager.estimates().scored(X)
    assert 0.5 < fresh.mean[1] < known.mean[0]
    assert fresh.width[1] > known.width[0]
    assert pager.times.expected_s("disk")[1] == pytest.approx(0.4)
    pager.set_catalogue([adapter("b"), adapter("a2", replaces="a"), adapter("c")])
    for key in ("b", "a2"):
        pager.loaded(key)
    assert pager.room_for("c") == ("b",)


def test_a_catalogue_may_not_lose_what_is_in_the_engine_nor_hold_anything_twice():
    pager = core(adapter("a"), adapter("b"))
    pager.loaded("a")
    with pytest.raises(ValueError, match="still resident: a"):
        pager.set_catalogue([adapter("b")])
    with pytest.raises(ValueError, match="twice"):
        pager.set_catalogue([adapter("a"), adapter("a", 5)])
    pager.evicted("a")
    pager.set_catalogue([adapter("b")])
    assert pager.keys == ("b",)


def test_a_budget_that_shrank_over_a_restart_is_planned_for():
    pager = core(*(adapter(key) for key in "abcd"), slots=4, policy="hybrid", account_decay=1.0)
    for _ in range(10):
        for key in "abc":
            pager.requested(key, X, named=True)
            pager.plan()
    assert len(pager.planned) == 3
    again = core(*(adapter(key) for key in "abcd"), slots=2, policy="hybrid", account_decay=1.0)
    again.restore(pager.arrays())
    again.requested("a", X, named=True)
    again.plan()
    assert len(again.planned) == 1


def test_routers_decide_on_a_snapshot_as_the_node_does():
    pager = core(adapter("a"), adapter("b"))
    snapshot = pager.estimates()
    pager.observe("b", X, 1.0)
    assert snapshot.scored(X).mean.tolist() == [0.5, 0.5]
    assert pager.estimates().scored(X).mean.tolist() == pager.statistics.scored(X).mean.tolist()
    decision = pager.choose(X, draw=0.0)
    assert pager.keys[decision.row] == "b"
    assert pager.forced() is None


def test_budgets_without_a_reserve_are_refused():
    with pytest.raises(ValueError, match="reserve_slots"):
        Budget(slots=2, reserve_slots=0)
    with pytest.raises(ValueError, match="reserve_slots"):
        Budget(slots=2, reserve_slots=3)
