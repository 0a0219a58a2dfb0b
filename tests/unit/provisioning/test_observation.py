"""What becomes of reports, facts and counts on their way into a snapshot."""

from dataclasses import replace

import pytest

from cluster.config import parse_config
from cluster.entities.energy import EnergySource
from cluster.entities.fleet import DemandWindow, ModelBacklog, ReplicaObservation, ReplicaStage
from cluster.entities.pool import ReplicaPhase, Role
from cluster.performance.profiles import pool_performance
from cluster.policy.observation import DemandTally, PoolFacts, added, combined, observe
from tests.replica_reports import replica_report

CONFIG = parse_config("""
models: {m: {source: s, architecture: llama-3.1-8b}}
pools:
  b: {model: m, gpu_type: L4, role: decode}
  a: {model: m, gpu_type: H100, role: prefill}
""")
PERFORMANCE = {name: pool_performance(pool, CONFIG.models["m"]) for name, pool in CONFIG.pools.items()}
NO_DEMAND = DemandWindow(started_at_s=90.0, ended_at_s=100.0)


def _report(name, pool="a", *, phase=ReplicaPhase.READY, observed_at_s=99.0, **more):
    fields = {"model": "m", "phase": phase, "observed_at_s": observed_at_s, "started_at_s": 10.0}
    return replica_report(name, pool=pool, role=Role.COMBINED, **fields, **more)


def _facts(pool="a", **more):
    return PoolFacts(**({"replicas_wanted": 2, "performance": PERFORMANCE[pool]} | more))


def _starting(name):
    return ReplicaObservation(replica_id=name, stage=ReplicaStage.STARTING, since_s=80.0)


def _observe(reports=(), facts=None, **more):
    pools = {"a": _facts("a"), "b": _facts("b")} if facts is None else facts
    return observe(
        config=CONFIG, observed_at_s=100.0, reports=reports, pools=pools, **({"demand": NO_DEMAND} | more)
    )


def test_pools_and_replicas_are_ordered_by_name():
    found = _observe([_report("r2"), _report("r1"), _report("r0", "b")])
    assert [pool.pool for pool in found.pools] == ["a", "b"]
    assert [replica.replica_id for replica in found.pools[0].replicas] == ["r1", "r2"]
    backlog = (ModelBacklog(model="z"), ModelBacklog(model="m", requests=3))
    assert [waiting.model for waiting in _observe(backlog=backlog).backlog] == ["m", "z"]


def test_what_a_pool_is_comes_from_the_configuration_not_from_its_replicas():
    pool = _observe([_report("r1")]).pools[0]
    assert (pool.model, pool.role, pool.gpu_type) == ("m", Role.PREFILL, "H100")


def test_a_pool_without_facts_and_a_report_from_elsewhere_are_left_out():
    found = _observe([_report("r1"), _report("r2", "gone")], {"a": _facts()})
    assert [pool.pool for pool in found.pools] == ["a"]
    assert [replica.replica_id for replica in found.pools[0].replicas] == ["r1"]


def test_a_replica_that_reports_is_no_longer_starting():
    starting = (_starting("r1"), _starting("r9"))
    pool = _observe([_report("r1", requests_running=4)], {"a": _facts(starting=starting)}).pools[0]
    assert [(replica.replica_id, replica.stage) for replica in pool.replicas] == [
        ("r1", ReplicaStage.READY),
        ("r9", ReplicaStage.STARTING),
    ]
    assert pool.replicas[0].requests_running == 4
    assert pool.count(ReplicaStage.STARTING) == 1


def test_stages_follow_phases_and_their_instants_what_was_seen():
    reports = [_report("r1"), _report("r2", phase=ReplicaPhase.DRAINING)]
    pool = _observe(reports, {"a": _facts(stage_since_s={"r2": 95.0})}).pools[0]
    assert [(replica.stage, replica.since_s) for replica in pool.replicas] == [
        (ReplicaStage.READY, 10.0),
        (ReplicaStage.DRAINING, 95.0),
    ]


def test_news_is_as_old_as_the_oldest_report_of_a_ready_replica():
    ready = [_report("r1", observed_at_s=97.0), _report("r2", observed_at_s=99.0)]
    old = _report("r3", phase=ReplicaPhase.DRAINING, observed_at_s=1.0)
    assert _observe([*ready, old]).pools[0].reported_at_s == 97.0
    assert _observe([old]).pools[0].reported_at_s is None


def test_facts_are_passed_on_as_they_are():
    facts = _facts(
        replicas_wanted=7,
        replicas_placeable=5,
        unplaced_since_s=60.0,
        power_w=812.5,
        power_source=EnergySource.MEASURED,
    )
    pool = _observe(facts={"a": facts}).pools[0]
    assert (pool.replicas_wanted, pool.replicas_placeable, pool.unplaced_since_s) == (7, 5, 60.0)
    assert (pool.power_w, pool.power_source, pool.performance) == (
        812.5,
        EnergySource.MEASURED,
        replace(PERFORMANCE["a"], sequences_max=CONFIG.pools["a"].max_concurrent_requests),
    ), "no replica gets more requests than routers send it"


# Demand


def test_a_tally_sums_up_by_class_and_begins_anew():
    tally = DemandTally(CONFIG)
    tally.arrived("m", 100)
    tally.arrived("m", 300)
    tally.arrived("m", 5000)
    tally.completed("m", 300, 200, 40, slo_met=True)
    tally.completed("m", 100, 0, 10, slo_met=False)
    tally.cache_hit("m", 100)
    short, long = tally.take(0.0, 5.0).classes
    assert (short.workload_class, short.arrivals, short.prompt_tokens) == ("0-512", 2, 400)
    assert short.prompt_tokens_squared == 100.0**2 + 300.0**2
    assert (short.completions, short.completed_prompt_tokens, short.cached_prompt_tokens) == (2, 400, 200)
    assert (short.output_tokens, short.slo_met, short.cache_hits) == (50, 1, 1)
    assert short.attended_tokens == 40 * (300 + 20) + 10 * (100 + 5)
    assert (long.workload_class, long.arrivals, long.completions) == ("4097-", 1, 0)
    assert tally.take(5.0, 9.0) == DemandWindow(started_at_s=5.0, ended_at_s=9.0)


def test_models_that_are_not_configured_take_no_room():
    tally = DemandTally(CONFIG)
    for number in range(100):
        tally.arrived(f"made-up-{number}", 10)
        tally.completed(f"made-up-{number}", 10, 0, 1, slo_met=True)
        tally.cache_hit(f"made-up-{number}", 10)
    assert tally.take(0.0, 1.0).classes == ()


def test_windows_of_two_routers_add_up():
    first, second = DemandTally(CONFIG), DemandTally(CONFIG)
    first.arrived("m", 10)
    second.arrived("m", 20)
    second.arrived("m", 9000)
    together = added([second.take(0.0, 5.0), first.take(0.0, 5.0)], started_at_s=0.0, ended_at_s=6.0)
    assert together.ended_at_s == 6.0
    assert [(found.workload_class, found.arrivals, found.prompt_tokens) for found in together.classes] == [
        ("0-512", 2, 30),
        ("4097-", 1, 9000),
    ]


@pytest.mark.parametrize("sign", [1, -1])
def test_counts_of_a_class_are_added_and_taken_away_field_by_field(sign):
    tally = DemandTally(CONFIG)
    tally.arrived("m", 10)
    tally.completed("m", 10, 4, 6, slo_met=True)
    (once,) = tally.take(0.0, 1.0).classes
    twice = combined(once, once, sign=1)
    assert (twice.arrivals, twice.output_tokens, twice.slo_met) == (2, 12, 1 + 1)
    assert combined(twice, once, sign=sign) == (
        once
        if sign == -1
        else replace(once, **{name: 3 * getattr(once, name) for name in once.__slots__[2:]})
    )
