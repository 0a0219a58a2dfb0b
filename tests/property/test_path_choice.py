"""Invariants of the choice of path.

1. Disaggregated only with a usable prefill replica, a decode replica to hand over to, and a request that can
   be split.
2. Equal input gives an equal decision, whatever the order of the prefill replicas.
3. A longer cached prefix at the decode replica, or busier prefill replicas, never turn combined into
   disaggregated.
4. Exactly one reason is given.
"""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.config.routing import DisaggregationConfig
from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaView, Role
from cluster.entities.routing import Path
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.disaggregation import choose_path

NOW_S = 1000.0


def views(role):
    return st.builds(
        ReplicaView,
        replica_id=st.uuids().map(lambda value: ReplicaId(str(value))),
        pool=st.just(PoolName("pool")),
        role=role,
        phase=st.sampled_from(ReplicaPhase),
        pending_prefill_tokens=st.integers(0, 50_000),
        requests_in_flight=st.integers(0, 2),
        max_concurrent_requests=st.integers(1, 2),
        cached_tokens=st.integers(0, 1000),
        prefill_tokens_per_s=st.floats(0, 10_000),
        put_aside_until_s=st.sampled_from([0.0, NOW_S, NOW_S + 1]),
    )


SIGNALS = st.builds(
    RequestSignals,
    surface=st.sampled_from(Surface),
    model=st.just("m"),
    tenant=st.just("t"),
    prompt_tokens=st.integers(0, 2000),
    max_output_tokens=st.none() | st.integers(0, 3),
    splittable=st.booleans(),
)
DECODE = views(st.sampled_from(Role))
PREFILL = st.lists(views(st.just(Role.PREFILL)), max_size=4)
CONFIGS = st.builds(
    DisaggregationConfig,
    enabled=st.booleans(),
    uncached_tokens_min=st.integers(1, 1000),
    prefill_wait_s_max=st.floats(0.1, 30),
)


def choose(signals, decode, prefill, config):
    return choose_path(signals, decode, prefill, config, now_s=NOW_S)


@given(SIGNALS, DECODE, PREFILL, CONFIGS)
def test_disaggregated_only_where_it_is_possible(signals, decode, prefill, config):
    choice = choose(signals, decode, prefill, config)
    assert len(choice.reasons) == 1
    if choice.path is Path.COMBINED:
        return
    assert choice.path is Path.DISAGGREGATED
    assert config.enabled
    assert signals.splittable
    assert decode.role is Role.DECODE
    assert signals.prompt_tokens - decode.cached_tokens >= config.uncached_tokens_min
    assert any(
        replica.phase is ReplicaPhase.READY
        and replica.put_aside_until_s <= NOW_S
        and replica.requests_in_flight < replica.max_concurrent_requests
        for replica in prefill
    )


@given(SIGNALS, DECODE, PREFILL, CONFIGS)
def test_equal_input_equal_decision_in_any_order(signals, decode, prefill, config):
    assert choose(signals, decode, prefill, config) == choose(signals, decode, prefill[::-1], config)


@given(SIGNALS, DECODE, PREFILL, CONFIGS, st.integers(1, 1000))
def test_less_to_gain_never_turns_it_on(signals, decode, prefill, config, more):
    if choose(signals, decode, prefill, config).path is Path.DISAGGREGATED:
        return
    warmer = replace(decode, cached_tokens=decode.cached_tokens + more)
    busier = [replace(r, pending_prefill_tokens=r.pending_prefill_tokens + more) for r in prefill]
    assert choose(signals, warmer, prefill, config).path is Path.COMBINED
    assert choose(signals, decode, busier, config).path is Path.COMBINED
