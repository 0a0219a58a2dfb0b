"""The default policy, on a fleet without engines."""

from dataclasses import replace
from itertools import pairwise

import pytest

from cluster.entities.fleet import ModelBacklog
from cluster.entities.reasons import Reason
from cluster.policy.provisioning.unit_commitment import decide


def _reasons(fleet, pool):
    return next(target.reasons for target in fleet.decision.plan.pools if target.pool == pool)


def _changes(series, pool):
    counts = [wanted[pool] for wanted in series]
    return [after - before for before, after in pairwise(counts) if after != before]


def test_more_demand_wakes_replicas_and_less_puts_them_to_sleep(fleet):
    world = fleet()
    busy = world.run(decide, [60] * 40)[-1]
    busy_w = world.decision.plan.power_w
    assert busy["h100"] >= 2
    quiet = world.run(decide, [2] * 80)[-1]
    assert quiet["h100"] < busy["h100"]
    assert world.decision.plan.power_w < 0.3 * busy_w
    assert world.decision.plan.degraded is False


def test_it_stays_as_it_is_under_constant_demand(fleet):
    world = fleet()
    series = world.run(decide, [40] * 120)
    assert _changes(series[20:], "h100") == []
    assert _changes(series[20:], "l4") == []


def test_it_grows_at_once_and_shrinks_only_after_the_window(fleet):
    world = fleet()
    before = world.run(decide, [5] * 60)[-1]
    crowd = world.run(decide, [80] * 12)[-1]
    assert crowd["h100"] > before["h100"]
    soon = world.run(decide, [5] * 20)
    assert soon[-1]["h100"] >= crowd["h100"] > before["h100"], (
        "200 s after the crowd everything is still there"
    )
    late = world.run(decide, [5] * 60)[-1]
    assert late["h100"] < crowd["h100"]


def test_an_oscillation_faster_than_the_window_does_not_flap(fleet):
    world = fleet()
    series = world.run(decide, [10, 10, 60, 60] * 60)[40:]
    assert len(_changes(series, "h100")) <= 4


def test_without_demand_a_model_goes_to_its_minimum_and_says_so(fleet):
    world = fleet()
    world.run(decide, [20] * 20)
    assert world.run(decide, [0] * 200)[-1] == {"h100": 0, "l4": 0}
    assert Reason.NO_DEMAND in world.decision.reasons
    assert Reason.AT_MINIMUM in _reasons(world, "h100")


def test_requests_that_wait_wake_a_model_that_sleeps(fleet):
    world = fleet()
    world.run(decide, [20] * 5 + [0] * 200)
    woken = world.step(decide, 0, backlog=(ModelBacklog(model="m", requests=10),))
    assert sum(woken.values()) >= 1
    assert Reason.BACKLOG in world.decision.reasons


def test_hardware_that_is_not_there_is_planned_on_another_type(fleet):
    world = fleet(prompt_tokens=200, output_tokens=50)
    world.run(decide, [40] * 30)
    world.placeable["h100"] = 0
    world.since_s["h100"] = []
    moved = world.run(decide, [40] * 12)[-1]
    assert moved["l4"] >= 4
    world.placeable["h100"] = None
    assert world.run(decide, [40] * 100)[-1]["h100"] >= 1, "it comes back once the hardware does"


def test_a_pool_that_cannot_be_placed_for_long_is_left_alone_for_a_while(fleet):
    world = fleet(prompt_tokens=200, output_tokens=50)
    world.run(decide, [30] * 30)
    world.unplaced_since_s["h100"] = world.at_s - 1_000.0
    world.since_s["h100"] = []
    after = world.step(decide, 30)
    assert after["h100"] == 0
    assert Reason.UNPLACEABLE in _reasons(world, "h100")
    assert after["l4"] > 0


@pytest.mark.parametrize("what", ["reports", "demand"])
def test_nothing_is_taken_away_on_stale_news(fleet, what):
    world = fleet()
    busy = world.run(decide, [60] * 40)[-1]
    for _ in range(60):
        world.at_s += 10.0
        snapshot = world.snapshot(0, reported_at_s=world.at_s - 500.0 if what == "reports" else None)
        if what == "demand":
            snapshot = replace(
                snapshot, demand=replace(snapshot.demand, started_at_s=10.0, ended_at_s=world.at_s - 500.0)
            )
        decision = decide(snapshot, world.state, world.config)
        world.state = decision.state
        assert {target.pool: target.replicas for target in decision.plan.pools} == busy


def test_another_pool_is_ready_before_the_one_it_replaces_goes(fleet):
    world = fleet(prompt_tokens=200, output_tokens=50)
    world.run(decide, [30] * 40)
    world.run(decide, [0.5] * 34)
    for _ in range(60):
        before = {name: len(since) for name, since in world.since_s.items()}
        world.step(decide, 0.5)
        ready = {
            pool.pool: sum(1 for replica in pool.replicas if replica.stage == "ready")
            for pool in world.snapshot(0.5).pools
        }
        gone = any(len(world.since_s[name]) < before[name] for name in before)
        assert not gone or sum(ready.values()) >= 1, "somebody always answers"


def test_the_power_cap_is_kept_and_a_plan_that_falls_short_says_so(fleet):
    world = fleet()
    text = world.config.model_dump(mode="json")
    text["provisioning"]["power_caps"] = [{"watts": 1500.0}]
    capped = type(world.config).model_validate(text)
    free = world.run(decide, [120] * 30)[-1]
    world.config = capped
    held = world.step(decide, 120)
    assert held["h100"] < free["h100"]
    assert world.decision.plan.power_w <= 1500.0
    assert world.decision.plan.power_cap_w == 1500.0
    assert world.decision.plan.degraded
    assert Reason.POWER_CAP in world.decision.reasons


def test_a_cap_below_the_minimum_leaves_the_minimum(fleet):
    text = """
    models: {m: {source: s, architecture: llama-3.1-8b}}
    pools: {h100: {model: m, gpu_type: H100, replicas: {min: 2, max: 8}}}
    provisioning: {power_caps: [{watts: 10}]}
    """
    world = fleet(text)
    assert world.run(decide, [50] * 5)[-1] == {"h100": 2}
    assert world.decision.plan.degraded


def test_spares_are_awake_beyond_what_demand_needs(fleet):
    world, careful = fleet(), fleet()
    data = careful.config.model_dump(mode="json")
    data["provisioning"]["spare_replicas"] = 1
    careful.config = type(careful.config).model_validate(data)
    plain = sum(world.run(decide, [40] * 40)[-1].values())
    assert sum(careful.run(decide, [40] * 40)[-1].values()) == plain + 1
    assert any(Reason.SPARE in target.reasons for target in careful.decision.plan.pools)


def test_prompts_too_long_for_a_type_are_kept_from_it(fleet):
    world = fleet(prompt_tokens=12_000, output_tokens=100)
    world.run(decide, [1] * 20)
    limits = {target.pool: target.prompt_tokens_max for target in world.decision.plan.pools}
    assert limits["h100"] is None
    assert limits["l4"] is not None


def test_the_order_of_leaving_is_told_when_a_pool_shrinks(fleet):
    world = fleet()
    world.run(decide, [80] * 40)
    before = len(world.since_s["h100"])
    for _ in range(100):
        world.step(decide, 1)
        target = next(t for t in world.decision.plan.pools if t.pool == "h100")
        if target.replicas < before:
            assert len(target.drain_first) == before
            return
    pytest.fail("it never shrank")
