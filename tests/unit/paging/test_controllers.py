"""Controllers: caches against their definitions, plans, swaps, drift, exploration."""

import numpy as np
import pytest

from cluster.config.paging import PagingConfig
from cluster.policy.paging.core import PagerCore
from cluster.policy.paging.drift import PageHinkley
from cluster.policy.paging.interface import Budget, PagedAdapter, PlanReason

N, D = 6, 4
BYTES = (101, 223, 307, 419, 541, 661)
"""Page-ins cost in proportion; without ties."""


def core(policy, *, adapters=N, slots=3, byte_limit=None, pinned=(), sizes=BYTES, **settings):
    config = PagingConfig(policy=policy, dimension=D, **settings)
    found = PagerCore(config, Budget(slots=slots, bytes=byte_limit), source="n")
    found.set_catalogue(
        PagedAdapter(key=f"k{row}", bytes=sizes[row], pinned=row in pinned) for row in range(adapters)
    )
    return found


def serve(pager, row, *, x=None, named=True):
    """As the live pager does; what was evicted for it."""
    key = f"k{row}"
    pager.requested(key, np.zeros(D) if x is None else x, named=named)
    leaving = pager.room_for(key)
    for victim in leaving:
        pager.evicted(victim)
    if not pager.holds(key):
        pager.loaded(key)
    return leaving


def follow(pager):
    plan = pager.plan()
    if plan is not None:
        for key in plan.drop:
            pager.evicted(key)
        for key in plan.load:
            pager.loaded(key)
    return plan


class Lru:
    def __init__(self, slots):
        self.slots, self.order = slots, []

    def serve(self, row):
        out = []
        if row in self.order:
            self.order.remove(row)
        elif len(self.order) == self.slots:
            out = [self.order.pop(0)]
        self.order.append(row)
        return out


class Lfu:
    """Decay applied to all counts at every request, as the definition says."""

    def __init__(self, slots, decay):
        self.slots, self.decay, self.held, self.count = slots, decay, set(), [0.0] * N

    def serve(self, row):
        self.count = [value * self.decay for value in self.count]
        self.count[row] += 1
        out = []
        if row not in self.held and len(self.held) == self.slots:
            out = [min(self.held, key=lambda each: (self.count[each], each))]
            self.held -= set(out)
        self.held.add(row)
        return out


class Gdsf:
    """H = L + frequency · cost / size on every request; the least H leaves and becomes L."""

    def __init__(self, slots, cost, size):
        self.slots, self.cost, self.size = slots, cost, size
        self.floor, self.held, self.frequency = 0.0, {}, {}

    def serve(self, row):
        self.frequency[row] = self.frequency.get(row, 0) + 1
        out = []
        if row not in self.held and len(self.held) == self.slots:
            leaver = min(self.held, key=lambda each: (self.held[each], each))
            self.floor = self.held.pop(leaver)
            self.frequency[leaver] = 0
            out = [leaver]
        self.held[row] = self.floor + self.frequency[row] * self.cost[row] / self.size[row]
        return out


def requests(seed, count=600):
    chance = np.random.default_rng(seed)
    weights = np.array([8, 5, 3, 2, 1, 1.0])
    return chance.choice(N, size=count, p=weights / weights.sum()).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_lru_evicts_as_its_definition(seed):
    pager, reference = core("lru"), Lru(3)
    for row in requests(seed):
        assert list(serve(pager, row)) == [f"k{each}" for each in reference.serve(row)]


@pytest.mark.parametrize("seed", range(3))
def test_lfu_evicts_as_its_definition(seed):
    pager, reference = core("lfu", count_decay=0.9), Lfu(3, 0.9)
    for row in requests(seed):
        assert list(serve(pager, row)) == [f"k{each}" for each in reference.serve(row)]


def test_lfu_counts_survive_more_requests_than_a_float_can_scale():
    pager, reference = core("lfu", count_decay=0.5), Lfu(3, 0.5)
    for row in requests(1, count=3000):
        assert list(serve(pager, row)) == [f"k{each}" for each in reference.serve(row)]


@pytest.mark.parametrize("seed", range(3))
def test_gdsf_evicts_as_its_definition(seed):
    pager = core("gdsf")
    cost = (pager.prices()).tolist()
    reference = Gdsf(3, cost, [1 / 3] * N)
    for row in requests(seed):
        assert list(serve(pager, row)) == [f"k{each}" for each in reference.serve(row)]


def test_the_reserve_of_a_planner_evicts_the_longest_unused_and_the_plan_stays():
    pager = core("polar", slots=3, epoch_requests=10, epoch_requests_max=10)
    for row in [0, 0, 0, 1, 1, 0, 1, 0, 1, 0]:
        serve(pager, row)
        plan = follow(pager)
    assert plan is not None
    assert plan.reason is PlanReason.EPOCH
    assert set(plan.keep) == {"k0", "k1"}
    for row in (2, 3, 4):
        serve(pager, row)
        assert {"k0", "k1"} <= set(pager.resident)


def test_ftpl_without_noise_plans_the_dearest_and_most_asked():
    pager = core("ftpl", epoch_requests=30, epoch_requests_max=30, perturbation=0.0, count_decay=1.0)
    for row in [5] * 12 + [4] * 10 + [0] * 8:
        serve(pager, row)
        plan = follow(pager)
    # costs go with bytes here
    assert plan is not None
    assert set(pager.planned) == {"k5", "k4"}


def test_hybrid_buys_when_renting_has_cost_a_page_in():
    pager = core("hybrid", slots=2, epoch_requests=4000, account_decay=1.0)
    follow(pager)
    reasons = []
    for _ in range(6):
        serve(pager, 0)
        plan = follow(pager)
        reasons += [plan.reason] if plan else []
    assert reasons == [PlanReason.DEMAND]
    assert pager.planned == ("k0",)
    # equally dear adapters change places once the newcomer's account is a page-in above
    cost = BYTES[1] / BYTES[0]
    swapped_after = 0
    for _ in range(40):
        swapped_after += 1
        serve(pager, 1)
        if follow(pager) is not None:
            break
    assert pager.planned == ("k1",)
    assert 6 / cost < swapped_after <= 6 / cost + 2


def test_hybrid_plans_afresh_when_other_adapters_are_asked_for():
    settings = {"epoch_requests": 4000, "account_decay": 0.9999, "drift_threshold": 4.0}
    pager = core("hybrid", slots=3, sizes=(100,) * N, **settings)
    chance = np.random.default_rng(0)
    for _ in range(600):
        serve(pager, int(chance.choice([0, 1, 2], p=[0.5, 0.4, 0.1])))
        follow(pager)
    assert set(pager.planned) == {"k0", "k1"}
    reasons = []
    for _ in range(100):
        serve(pager, int(chance.choice([4, 5, 2], p=[0.5, 0.4, 0.1])))
        plan = follow(pager)
        reasons += [plan.reason] if plan else []
    assert PlanReason.DRIFT in reasons
    assert set(pager.planned) == {"k4", "k5"}


def test_page_hinkley_is_quiet_in_noise_and_fires_on_a_rise():
    chance = np.random.default_rng(0)
    test = PageHinkley(tolerance=0.05, threshold=8.0)
    assert not any(test.rises(float(value)) for value in chance.random(2000) < 0.2)
    assert any(test.rises(float(value)) for value in chance.random(60) < 0.9)


def test_full_price_routing_locks_in_with_a_cache_and_not_with_an_optimistic_plan():
    """Adapter 1 is better for everything, and its page-in is dearer than the router's optimism."""

    def late_share_of_the_better(policy):
        slots = 1 if policy == "lru" else 2  # one is in reserve
        pager = core(policy, adapters=2, slots=slots, router="aware", alpha=0.3, utility_per_s=2.0)
        pager.times.observe(0, "disk", 0.2)
        pager.times.observe(1, "disk", 0.2)
        pager.paged_in("k0", "disk", 0.2)
        pager.paged_in("k1", "disk", 0.2)
        chance = np.random.default_rng(0)
        serve(pager, 0)
        served = []
        for draw in chance.random(600):
            x = np.append(1.0, chance.normal(size=D - 1) / 4) / np.sqrt(2)
            row = pager.choose(x, draw=draw).row
            serve(pager, row, x=x, named=False)
            follow(pager)
            pager.observe(f"k{row}", x, (0.55, 0.9)[row])
            served.append(row)
        return np.mean(served[300:])

    assert late_share_of_the_better("lru") == 0.0
    assert late_share_of_the_better("hybrid") > 0.95


def test_polar_plus_brings_every_adapter_to_its_quota_within_its_share():
    share = 0.2
    pager = core("polar_plus", router="aware", alpha=0.0, forced_share=share, epoch_requests=256)
    chance = np.random.default_rng(0)
    forced = 0
    for draw in chance.random(4000):
        x = chance.normal(size=D) / 4
        decision = pager.choose(x, draw=draw)
        key = f"k{decision.row}"
        pager.requested(key, x, forced=decision.explored)
        for victim in pager.room_for(key):
            pager.evicted(victim)
        if not pager.holds(key):
            pager.loaded(key)
        follow(pager)
        pager.observe(key, x, 0.5)
        forced += decision.explored
    assert pager.statistics.count.min() >= np.ceil(D * np.sqrt(1024 / N))
    assert 0 < forced <= share * 4000


def test_what_was_learnt_survives_the_disk():
    for policy in ("lru", "lfu", "gdsf", "ftpl", "polar", "polar_plus", "hybrid"):
        settings = {"epoch_requests": 50, "epoch_requests_max": 200}
        first = core(policy, **settings)
        for row in requests(3, count=333):
            serve(first, row)
            follow(first)
        again = core(policy, **settings)
        again.restore({name: np.array(value) for name, value in first.arrays().items()})
        again.reconcile(first.resident)
        assert again.planned == first.planned
        for row in requests(4, count=200):
            assert serve(again, row) == serve(first, row)
            plans = follow(again), follow(first)
            assert [p and (p.keep, p.load, p.drop, p.reason) for p in plans[:1]] == [
                p and (p.keep, p.load, p.drop, p.reason) for p in plans[1:]
            ]
