"""The planners that are in use elsewhere do what their sources say: Dynamo's and FleetOpt."""

import math
from dataclasses import replace

from scipy.stats import poisson

from cluster.config import parse_config
from cluster.performance.capacity import Mix, Objective, Work, rate_max
from cluster.performance.profiles import pool_performance
from cluster.policy.provisioning.baselines import (
    interpolation,
    two_pool,
)
from tests.unit.provisioning.world import ONE_POOL, PERIOD_S, World

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
