"""Our form of Ray Serve's rule against Ray's own code, on the same observations, decision for decision."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import parse_config
from cluster.entities.fleet import (
    DemandWindow,
    FleetSnapshot,
    PoolObservation,
    ProvisionerState,
    ReplicaObservation,
    ReplicaStage,
)
from cluster.performance.profiles import pool_performance
from cluster.policy.provisioning.baselines.ongoing_requests import LOOK_BACK_S, TARGET_SHARE, decide
from tests.examples import examples

CONFIG = parse_config("""
models: {m: {source: s, architecture: llama-3.1-8b}}
pools: {p: {model: m, gpu_type: H100, replicas: {min: 0, max: 9}, max_concurrent_requests: 10}}
""")
PERFORMANCE = pool_performance(CONFIG.pools["p"], CONFIG.models["m"])


@pytest.fixture(scope="module")
def ray_rule():
    """Ray's rule with its defaults, as a function of what was seen; its clock is an argument."""
    # Imported here, because it takes a second or two that only this test should pay for.
    from ray.serve import autoscaling_policy  # noqa: PLC0415
    from ray.serve.config import AutoscalingConfig, AutoscalingContext  # noqa: PLC0415

    defaults = AutoscalingConfig(
        min_replicas=0, max_replicas=9, initial_replicas=2, target_ongoing_requests=TARGET_SHARE * 10
    )
    wrapped = autoscaling_policy._apply_autoscaling_config(
        autoscaling_policy.replica_queue_length_autoscaling_policy
    )
    clock = SimpleNamespace(now_s=0.0)
    patched = pytest.MonkeyPatch()
    patched.setattr(autoscaling_policy, "time", SimpleNamespace(time=lambda: clock.now_s))

    def decide_as_ray(now_s, running, target, requests, state):
        clock.now_s = now_s
        context = AutoscalingContext(
            deployment_id=None,
            deployment_name="p",
            app_name=None,
            current_num_replicas=running,
            target_num_replicas=target,
            running_replicas=[],
            total_num_requests=requests,
            total_queued_requests=None,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=0,
            capacity_adjusted_max_replicas=9,
            policy_state=state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=now_s,
            config=defaults,
        )
        wanted, state = wrapped(context)
        return min(9, max(0, wanted)), state

    yield decide_as_ray
    patched.undo()


def _snapshot(now_s, running, target, ongoing):
    replicas = tuple(
        ReplicaObservation(
            replica_id=f"r{number}",
            stage=ReplicaStage.READY if number < running else ReplicaStage.STARTING,
            requests_running=ongoing if number == 0 and running else 0,
        )
        for number in range(target)
    )
    pool = PoolObservation(
        pool="p",
        model="m",
        role=CONFIG.pools["p"].role,
        gpu_type="H100",
        replicas=replicas,
        replicas_wanted=target,
        performance=PERFORMANCE,
    )
    demand = DemandWindow(started_at_s=now_s - 10.0, ended_at_s=now_s)
    return FleetSnapshot(observed_at_s=now_s, pools=(pool,), demand=demand)


# Levels that last a while: (requests above a multiple of 7, how long, replicas that are not ready yet).
# With 7k + 3 no average over up to three of them is a multiple of 7, where a rounded last bit would decide.
levels = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 12)), st.integers(1, 90), st.integers(0, 2)),
    min_size=1,
    max_size=6,
)


@pytest.mark.timeout(60)
@given(levels)
@settings(max_examples=examples(60), deadline=None)
def test_it_decides_what_ray_decides(ray_rule, found):
    ours, theirs, state, now_s = 2, 2, ProvisionerState(), 1_000.0
    ray_state, seen = {}, []
    for sevens, steps, missing in found:
        for _ in range(steps):
            now_s += 10.0
            running = max(0, ours - missing)
            ongoing = 0 if sevens is None or not running else 7 * sevens + 3
            seen = [(at_s, count) for at_s, count in seen if at_s > now_s - LOOK_BACK_S]
            seen.append((now_s, ongoing))
            mean = sum(count for _, count in seen) / len(seen)
            theirs, ray_state = ray_rule(now_s, running, theirs, mean if running else 0.0, ray_state)
            decision = decide(_snapshot(now_s, running, ours, ongoing), state, CONFIG)
            state, ours = decision.state, decision.plan.replicas("p")
            assert ours == theirs
