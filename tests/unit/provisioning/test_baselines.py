"""The rules that are in use elsewhere do what their sources say."""

import math
from dataclasses import replace

import pytest
from scipy.stats import poisson

from cluster.config import parse_config
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
from cluster.entities.reasons import Reason
from cluster.performance.capacity import Mix, Objective, Work, rate_max
from cluster.performance.profiles import pool_performance
from cluster.policy.provisioning.baselines import (
    interpolation,
    ongoing_requests,
    queue_length,
    static_peak,
    two_pool,
    utilisation,
)
from cluster.policy.workload_class import workload_class

ONE_POOL = parse_config("""
models: {m: {source: s, architecture: llama-3.1-8b, slo: {ttft_s: 1.0, tpot_s: 0.1, attainment: 0.95}}}
pools:
  p: {model: m, gpu_type: H100, replicas: {min: 0, max: 20, initial: 3}, max_concurrent_requests: 10}
""")
PERIOD_S = 5.0


class World:
    """One decision after the other; what is wanted is there at once, and carries what the test says."""

    def __init__(self, decide, config=ONE_POOL, *, replicas=2):
        self.decide, self.config = decide, config
        self.state, self.decision = ProvisionerState(), None
        self.now_s = 1_000.0
        self.wanted = dict.fromkeys(config.pools, replicas)

    def step(self, ongoing=0, *, waiting=0, usage=0.0, backlog=0, demand=(), span_s=PERIOD_S, **stages):
        """One decision.

        Args:
            ongoing: requests on every pool's ready replicas, or by pool.
            waiting: how many of them wait there.
            usage: of every ready replica's KV cache.
            backlog: requests that wait in the routers.
            demand: (prompt tokens, answer's tokens, requests) since the last decision.
            span_s: time since the last decision.
            stages: how many replicas are `starting`, `draining`.
        """
        self.now_s += span_s
        self.decision = self.decide(
            FleetSnapshot(
                observed_at_s=self.now_s,
                pools=tuple(
                    self._pool(
                        name, ongoing[name] if isinstance(ongoing, dict) else ongoing, waiting, usage, stages
                    )
                    for name in sorted(self.config.pools)
                ),
                demand=DemandWindow(
                    started_at_s=self.now_s - span_s, ended_at_s=self.now_s, classes=self._classes(demand)
                ),
                backlog=(ModelBacklog(model="m", requests=backlog),),
            ),
            self.state,
            self.config,
        )
        self.state = self.decision.state
        self.wanted = {target.pool: target.replicas for target in self.decision.plan.pools}
        return self.wanted.get("p", self.wanted)

    def hold(self, seconds, *args, **kwargs):
        """Many decisions on the same observation; the last one's answer."""
        answers = [self.step(*args, **kwargs) for _ in range(round(seconds / PERIOD_S))]
        return answers[-1]

    def _pool(self, name, ongoing, waiting, usage, stages):
        settings = self.config.pools[name]
        starting, draining = stages.get("starting", 0), stages.get("draining", 0)
        ready = max(0, self.wanted[name] - starting)
        replicas = [
            ReplicaObservation(
                replica_id=f"{name}-{number:02}",
                stage=ReplicaStage.READY,
                requests_running=(ongoing - waiting) // ready + (number < (ongoing - waiting) % ready),
                requests_waiting=waiting // ready + (number < waiting % ready),
                kv_cache_usage=usage,
            )
            for number in range(ready)
        ]
        replicas += [
            ReplicaObservation(replica_id=f"{name}-s{number}", stage=ReplicaStage.STARTING)
            for number in range(starting)
        ]
        replicas += [
            ReplicaObservation(
                replica_id=f"{name}-x{number}",
                stage=ReplicaStage.DRAINING,
                requests_running=1000,
                kv_cache_usage=1.0,
            )
            for number in range(draining)
        ]
        return PoolObservation(
            pool=name,
            model=settings.model,
            role=settings.role,
            gpu_type=settings.gpu_type,
            replicas=tuple(replicas),
            replicas_wanted=self.wanted[name],
            performance=pool_performance(settings, self.config.models[settings.model]),
        )

    def _classes(self, demand):
        found = [
            ClassDemand(
                model="m",
                workload_class=workload_class(prompt, self.config.provisioning.prompt_bands),
                arrivals=count,
                prompt_tokens=count * prompt,
                prompt_tokens_squared=float(count * prompt * prompt),
                completions=count,
                completed_prompt_tokens=count * prompt,
                output_tokens=count * answer,
                attended_tokens=float(count * answer * (prompt + answer / 2)),
            )
            for prompt, answer, count in demand
        ]
        return tuple(sorted(found, key=lambda demand: demand.workload_class))


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


# Dynamo's planner


def _rate(config, name, prompt, answer, work=Work.WHOLE):
    settings = config.pools[name]
    slo = config.models["m"].slo
    mix = Mix(
        prompt_tokens=prompt,
        uncached_tokens=prompt,
        uncached_tokens_squared=prompt**2,
        output_tokens=answer,
        context_tokens=prompt + answer / 2,
    )
    objective = Objective(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s, attainment=slo.attainment)
    return rate_max(pool_performance(settings, config.models["m"]), mix, objective, work=work)


def test_the_planner_acts_every_three_minutes_on_the_load_of_the_last_three():
    world = World(interpolation.decide)
    per_replica = _rate(ONE_POOL, "p", 400, 150)
    count = round(per_replica * 3.5 * PERIOD_S)
    answers = [world.step(9, demand=[(400, 150, count)]) for _ in range(38)]
    assert answers[:36] == [2] * 36
    assert answers[36:] == [4, 4]
    assert world.hold(170, 0) == 4
    assert world.step(0) == 1


SPLIT = parse_config("""
models: {m: {source: s, architecture: llama-3.1-8b, slo: {ttft_s: 2.0, tpot_s: 0.05, attainment: 0.95}}}
pools:
  d: {model: m, role: decode, gpu_type: H100, replicas: {min: 1, max: 20}}
  f: {model: m, role: prefill, gpu_type: H100, replicas: {min: 1, max: 20}}
""")


def test_the_planner_sizes_prefill_and_decode_each_by_its_own_objective():
    world = World(interpolation.decide, SPLIT)
    rate_per_s = 60.0
    count = round(rate_per_s * PERIOD_S)
    world.hold(185, 5, demand=[(1000, 300, count)])
    assert world.wanted == {
        "f": math.ceil(rate_per_s / _rate(SPLIT, "f", 1000, 300, Work.PROMPTS)),
        "d": math.ceil(rate_per_s / _rate(SPLIT, "d", 1000, 300, Work.ANSWERS)),
    }
    assert min(world.wanted.values()) >= 2


MIXED = parse_config("""
models: {m: {source: s, architecture: llama-3.1-8b, slo: {ttft_s: 2.0, tpot_s: 0.1, attainment: 0.95}}}
pools:
  a: {model: m, gpu_type: H100, replicas: {min: 0, max: 20}}
  b: {model: m, gpu_type: A100, replicas: {min: 0, max: 20}}
""")


def test_pools_of_one_model_grow_by_the_same_factor():
    world = World(interpolation.decide, MIXED)
    each = {name: _rate(MIXED, name, 400, 150) for name in MIXED.pools}
    rate_per_s = 2.4 * 2 * sum(each.values())
    world.hold(185, demand=[(400, 150, round(rate_per_s * PERIOD_S))])
    assert world.wanted == {"a": 5, "b": 5}
    assert sum(count * each[name] for name, count in world.wanted.items()) >= rate_per_s


# FleetOpt


def _two_pools(demand, *, seconds=60):
    world = World(two_pool.decide, MIXED)
    world.hold(seconds, demand=demand)
    return world


LONG = [(200, 150, 100), (20_000, 150, 10)]


def test_short_and_long_prompts_get_a_pool_each():
    world = _two_pools(LONG)
    short, long = sorted(world.decision.plan.pools, key=lambda target: target.prompt_tokens_min)
    assert short.prompt_tokens_min == 0
    assert long.prompt_tokens_max is None
    assert short.prompt_tokens_max in MIXED.provisioning.prompt_bands
    assert long.prompt_tokens_min == short.prompt_tokens_max + 1
    assert min(short.replicas, long.replicas) >= 1


def test_without_long_prompts_one_pool_takes_every_length():
    plan = _two_pools([(200, 150, 100)]).decision.plan
    used = [target for target in plan.pools if target.replicas]
    assert len(used) == 1
    assert (used[0].prompt_tokens_min, used[0].prompt_tokens_max) == (0, None)


def test_it_is_sized_by_the_wait_of_an_m_g_c_queue():
    prompt, answer, rate_per_s = 200.0, 150.0, 400.0
    plan = _two_pools([(int(prompt), int(answer), int(rate_per_s * PERIOD_S))]).decision.plan
    (target,) = [target for target in plan.pools if target.replicas]
    replica = pool_performance(MIXED.pools[target.pool], MIXED.models["m"])
    slots = min(replica.sequences_max, replica.kv_tokens_max // MIXED.provisioning.prompt_bands[0])
    step_s = (
        replica.step_base_s
        + slots * replica.step_per_sequence_s
        + slots * replica.step_per_context_token_s * (prompt + answer / 2)
    )
    service_s = (1 + answer) * step_s + slots * replica.prefill_token_s * prompt

    def is_enough(count):
        servers, load = count * slots, rate_per_s * service_s
        if load / servers > 0.85:
            return False
        blocked = poisson.pmf(servers, load) / poisson.cdf(servers, load)
        delayed = blocked / (1 - load / servers * (1 - blocked))
        wait_s = math.log(delayed / 0.01) / (servers / service_s - rate_per_s) if delayed > 0.01 else 0.0
        return wait_s <= MIXED.models["m"].slo.ttft_s

    assert target.replicas > 1
    assert is_enough(target.replicas)
    assert not is_enough(target.replicas - 1)


def test_after_the_first_minute_it_stays_for_an_hour():
    world = World(two_pool.decide, MIXED)
    world.hold(55, demand=LONG)
    assert world.wanted == {"a": 2, "b": 2}
    world.step(demand=LONG)
    sized = dict(world.wanted)
    busier = [(prompt, answer, 20 * count) for prompt, answer, count in LONG]
    world.hold(3_595, demand=busier)
    assert world.wanted == sized
    world.step(demand=busier)
    assert sum(world.wanted.values()) > sum(sized.values())


def test_hardware_that_is_lost_for_a_while_is_used_again():
    world = _two_pools([(200, 150, 2_000)])
    sized = dict(world.wanted)
    (name,) = [name for name, count in sized.items() if count > 1]

    def without_hardware(snapshot, state, config):
        pools = tuple(
            replace(pool, replicas_placeable=1) if pool.pool == name else pool for pool in snapshot.pools
        )
        return two_pool.decide(replace(snapshot, pools=pools), state, config)

    world.decide = without_hardware
    world.step()
    assert world.wanted[name] == 1
    world.decide = two_pool.decide
    world.step()
    assert world.wanted == sized


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
