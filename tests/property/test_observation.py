"""Invariants of the one way from reports and counts to a snapshot.

1. Canonical: the order in which reports, pools and backlog come in does not show.
2. Conserving: requests counted by any number of routers, in any windows, add up to those counted by one.
3. Bounded: there are never more classes than models times bands.
4. Every length has one class, and lies within its bounds.
"""

from hypothesis import given
from hypothesis import strategies as st

from cluster.config import parse_config
from cluster.entities.fleet import DemandWindow, ModelBacklog, ReplicaObservation, ReplicaStage
from cluster.entities.pool import ReplicaPhase, ReplicaReport, Role
from cluster.performance.profiles import pool_performance
from cluster.policy.observation import DemandTally, PoolFacts, added, observe
from cluster.policy.workload_class import (
    class_lower_tokens,
    class_upper_tokens,
    workload_class,
    workload_classes,
)

CONFIG = parse_config("""
models: {m: {source: s, architecture: llama-3.1-8b}, n: {source: s, architecture: llama-3.1-8b}}
pools:
  a: {model: m, gpu_type: H100}
  b: {model: m, gpu_type: L4}
  c: {model: n, gpu_type: A100}
""")
PERFORMANCE = {name: pool_performance(pool, CONFIG.models[pool.model]) for name, pool in CONFIG.pools.items()}

reports = st.lists(
    st.builds(
        ReplicaReport,
        replica_id=st.sampled_from([f"r{number}" for number in range(12)]),
        pool=st.sampled_from(["a", "b", "c", "elsewhere"]),
        role=st.just(Role.COMBINED),
        model=st.just("m"),
        gpu_type=st.just("H100"),
        url=st.just("http://r"),
        phase=st.sampled_from(ReplicaPhase),
        observed_at_s=st.floats(0, 100),
        started_at_s=st.just(0.0),
        requests_running=st.integers(0, 9),
        requests_waiting=st.integers(0, 9),
        kv_cache_usage=st.floats(0, 1),
    ),
    max_size=8,
    unique_by=lambda report: report.replica_id,
)
backlogs = st.lists(
    st.builds(ModelBacklog, model=st.sampled_from(["m", "n"]), requests=st.integers(0, 9)),
    max_size=2,
    unique_by=lambda waiting: waiting.model,
)


def _facts(name, starting=()):
    return PoolFacts(
        replicas_wanted=1,
        performance=PERFORMANCE[name],
        starting=tuple(
            ReplicaObservation(replica_id=replica, stage=ReplicaStage.STARTING) for replica in starting
        ),
    )


@given(reports, backlogs, st.lists(st.sampled_from(["s1", "s2", "r0"]), unique=True), st.randoms())
def test_the_order_in_which_facts_come_in_does_not_show(found, waiting, starting, chance):
    pools = {name: _facts(name, starting) for name in CONFIG.pools}
    demand = DemandWindow(started_at_s=0.0, ended_at_s=5.0)

    def snapshot(reports, pools, waiting):
        return observe(
            config=CONFIG,
            observed_at_s=100.0,
            reports=reports,
            pools=pools,
            demand=demand,
            backlog=waiting,
        )

    shuffled = {
        name: _facts(name, chance.sample(starting, len(starting)))
        for name in chance.sample(sorted(pools), len(pools))
    }
    again = snapshot(chance.sample(found, len(found)), shuffled, chance.sample(waiting, len(waiting)))
    first = snapshot(found, pools, waiting)
    assert again == first
    seen = sum(len(pool.replicas) for pool in first.pools)
    known = {(report.pool, report.replica_id) for report in found if report.pool in CONFIG.pools}
    assert seen == len(known | {(name, replica) for name in CONFIG.pools for replica in starting})


requests = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["m", "n", "unknown"]),
        st.integers(0, 20_000),
        st.integers(0, 3_000),
        st.booleans(),
    ),
    max_size=40,
)


@given(requests)
def test_many_routers_count_what_one_would(found):
    routers, one = [DemandTally(CONFIG) for _ in range(3)], DemandTally(CONFIG)
    for router, model, prompt, answer, met in found:
        for tally in (routers[router], one):
            tally.arrived(model, prompt)
            tally.completed(model, prompt, prompt // 2, answer, slo_met=met)
            if met:
                tally.cache_hit(model, prompt)
    windows = [tally.take(0.0, 5.0) for tally in routers]
    together = added(windows, started_at_s=0.0, ended_at_s=5.0)
    assert together == one.take(0.0, 5.0)
    known = [request for request in found if request[1] != "unknown"]
    assert sum(demand.arrivals for demand in together.classes) == len(known)
    assert sum(demand.prompt_tokens for demand in together.classes) == sum(r[2] for r in known)
    assert sum(demand.output_tokens for demand in together.classes) == sum(r[3] for r in known)
    assert sum(demand.slo_met for demand in together.classes) == sum(r[4] for r in known)
    assert len(together.classes) <= 2 * 3


@given(st.lists(st.integers(1, 100_000), unique=True, max_size=6).map(sorted), st.integers(0, 200_000))
def test_every_length_lies_in_its_class(bands, prompt_tokens):
    name = workload_class(prompt_tokens, bands)
    assert workload_classes(bands).count(name) == 1
    upper = class_upper_tokens(name)
    assert class_lower_tokens(name) <= prompt_tokens
    assert upper is None or prompt_tokens <= upper
