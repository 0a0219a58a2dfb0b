"""What holds for every provisioning policy, whatever it is shown."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import parse_config
from cluster.entities.energy import EnergySource
from cluster.entities.fleet import (
    ClassDemand,
    DemandWindow,
    FleetSnapshot,
    ModelBacklog,
    PoolObservation,
    ProvisionerState,
    ReplicaObservation,
    ReplicaStage,
)
from cluster.performance.profiles import pool_performance
from cluster.policy.provisioning.policies import POLICIES
from cluster.replay.codec import decoder, encode
from cluster.replay.provisioning import state_of, state_text
from tests.examples import examples

CONFIG = parse_config("""
models:
  a: {source: s, architecture: llama-3.1-8b}
  b: {source: s, architecture: llama-3.1-8b}
pools:
  a-h100: {model: a, gpu_type: H100, replicas: {min: 0, max: 6, initial: 2}}
  a-l4: {model: a, gpu_type: L4, replicas: {min: 1, max: 9}, max_concurrent_requests: 8}
  b-prefill: {model: b, role: prefill, gpu_type: H100, replicas: {min: 0, max: 3}}
  b-decode: {model: b, role: decode, gpu_type: A100, replicas: {min: 0, max: 5, initial: 1}}
""")
PERFORMANCE = {name: pool_performance(pool, CONFIG.models[pool.model]) for name, pool in CONFIG.pools.items()}
CLASSES = ("0-512", "513-4096", "4097-")

replicas = st.builds(
    lambda stages: [
        ReplicaObservation(
            replica_id=f"r{number}",
            stage=stage,
            requests_running=running,
            requests_waiting=running // 3,
            kv_cache_usage=usage,
        )
        for number, (stage, running, usage) in enumerate(stages)
    ],
    st.lists(st.tuples(st.sampled_from(ReplicaStage), st.integers(0, 300), st.floats(0, 1)), max_size=6),
)


@st.composite
def snapshots(draw, at_s=1_000.0):
    pools = []
    for name in sorted(CONFIG.pools):
        settings_ = CONFIG.pools[name]
        pools.append(
            PoolObservation(
                pool=name,
                model=settings_.model,
                role=settings_.role,
                gpu_type=settings_.gpu_type,
                replicas=tuple(draw(replicas)),
                replicas_wanted=draw(st.integers(settings_.replicas.min, settings_.replicas.max)),
                replicas_placeable=draw(st.none() | st.integers(0, 12)),
                unplaced_since_s=draw(st.none() | st.floats(0, at_s)),
                performance=PERFORMANCE[name],
                power_w=draw(st.none() | st.floats(0, 1e5)),
                power_source=draw(st.sampled_from([None, *EnergySource])),
                reported_at_s=draw(st.none() | st.floats(0, at_s)),
            )
        )
    classes = tuple(
        ClassDemand(
            model=model,
            workload_class=name,
            arrivals=count,
            prompt_tokens=count * prompt,
            prompt_tokens_squared=float(count * prompt * prompt),
            completions=done,
            completed_prompt_tokens=done * prompt,
            cached_prompt_tokens=done * prompt // 2,
            output_tokens=done * answer,
            attended_tokens=float(done * answer * (prompt + answer)),
        )
        for model in ("a", "b")
        for name, prompt in zip(CLASSES, (100, 2_000, 20_000), strict=True)
        if draw(st.booleans())
        for count, done, answer in [
            (draw(st.integers(0, 5_000)), draw(st.integers(0, 5_000)), draw(st.integers(1, 3_000)))
        ]
    )
    span_s = draw(st.floats(0, 100))
    return FleetSnapshot(
        observed_at_s=at_s,
        pools=tuple(pools),
        demand=DemandWindow(started_at_s=at_s - span_s, ended_at_s=at_s, classes=classes),
        backlog=tuple(ModelBacklog(model=model, requests=draw(st.integers(0, 500))) for model in ("a", "b")),
    )


@pytest.mark.parametrize("name", POLICIES)
@given(first=snapshots(), second=snapshots(at_s=1_060.0))
@settings(max_examples=examples(12), deadline=None)
def test_every_snapshot_gets_a_plan_within_the_bounds(name, first, second):
    state = ProvisionerState()
    for snapshot in (first, second):
        decision = POLICIES[name](snapshot, state, CONFIG)
        assert [target.pool for target in decision.plan.pools] == [pool.pool for pool in snapshot.pools]
        for target in decision.plan.pools:
            bounds = CONFIG.pools[target.pool].replicas
            assert bounds.min <= target.replicas <= bounds.max
            assert target.reasons
        state = decision.state


@pytest.mark.parametrize("name", POLICIES)
@given(snapshot=snapshots())
@settings(max_examples=examples(12), deadline=None)
def test_only_replicas_that_stay_so_far_are_named_to_go_each_once(name, snapshot):
    decision = POLICIES[name](snapshot, ProvisionerState(), CONFIG)
    for pool, target in zip(snapshot.pools, decision.plan.pools, strict=True):
        staying = {
            replica.replica_id for replica in pool.replicas if replica.stage is not ReplicaStage.DRAINING
        }
        assert set(target.drain_first) <= staying
        assert len(set(target.drain_first)) == len(target.drain_first)
        if len(staying) > target.replicas:
            assert len(target.drain_first) >= len(staying) - target.replicas


@pytest.mark.parametrize("name", POLICIES)
@given(snapshot=snapshots(), later=snapshots(at_s=1_060.0))
@settings(max_examples=examples(12), deadline=None)
def test_every_length_of_prompt_has_a_pool_of_its_model(name, snapshot, later):
    state = ProvisionerState()
    for seen in (snapshot, later):
        decision = POLICIES[name](seen, state, CONFIG)
        state = decision.state
    limits = {}
    for target in decision.plan.pools:
        upper = target.prompt_tokens_max
        assert upper is None or target.prompt_tokens_min <= upper
        if CONFIG.pools[target.pool].role.answers:
            model = CONFIG.pools[target.pool].model
            limits.setdefault(model, []).append((target.prompt_tokens_min, upper))
    for bounds in limits.values():
        for length in (0, 512, 513, 4096, 4097, 10**6):
            assert any(low <= length and (high is None or length <= high) for low, high in bounds)


@pytest.mark.parametrize("name", POLICIES)
@given(first=snapshots(), second=snapshots(at_s=1_060.0))
@settings(max_examples=examples(10), deadline=None)
def test_equal_input_gives_equal_decisions_also_after_a_restart(name, first, second):
    policy = POLICIES[name]
    state = policy(first, ProvisionerState(), CONFIG).state
    restored = state_of(state_text(state))
    assert restored == state
    assert policy(second, restored, CONFIG) == policy(second, state, CONFIG)


@given(snapshot=snapshots())
@settings(max_examples=examples(50), deadline=None)
def test_a_snapshot_survives_its_json(snapshot):
    text = json.dumps(encode(snapshot), sort_keys=True)
    again = decoder(FleetSnapshot)(json.loads(text), "snapshot")
    assert again == snapshot
    assert json.dumps(encode(again), sort_keys=True) == text


@given(snapshot=snapshots(), cap=st.floats(1, 20_000))
@settings(max_examples=examples(12), deadline=None)
def test_the_power_cap_holds_or_everything_is_as_small_as_may_be(snapshot, cap):
    data = CONFIG.model_dump(mode="json")
    data["provisioning"]["power_caps"] = [{"watts": cap}]
    data["provisioning"]["damping"] |= {"stale_after_s": 1e9}
    config = type(CONFIG).model_validate(data)
    decision = POLICIES["unit_commitment"](snapshot, ProvisionerState(), config)
    power_w = decision.plan.power_w
    if power_w is not None and power_w > cap * 1.001:
        demanded = {found.model for found in decision.forecast}
        for target in decision.plan.pools:
            pool = config.pools[target.pool]
            if pool.model in demanded:
                assert target.replicas == pool.replicas.min
        assert decision.plan.degraded
