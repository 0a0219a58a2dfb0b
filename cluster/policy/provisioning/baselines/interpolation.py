"""NVIDIA Dynamo's planner in its SLA mode: forecast, then interpolate profiles, for each pool on its own.

Every 180 s, the first time after one such interval: the load of the next interval is predicted to be that of
the last (its `constant` predictor); prefill replicas = requests per second / profiled rate within the TTFT
objective, with prompt tokens found in caches left out; decode replicas = requests per second / profiled rate
within the objective for the time between tokens; never fewer than one. Source: ai-dynamo/dynamo,
`components/src/dynamo/planner/core/throughput_scaling.py`.

What differs: the planner has one pool of each role, so where a model has several, each is given the part of
the load that its replicas can carry. Its fast loop on engine metrics and its correction by observed latency
are left out; no snapshot has what they need. Without any requests it leaves the fleet as it is (issue 14251
there); here it shrinks to one of each, which flatters it.
"""

import math
from dataclasses import replace

from cluster.config.pools import PoolConfig
from cluster.config.root import TidemillConfig
from cluster.entities.fleet import (
    FleetDecision,
    FleetSnapshot,
    PoolMemory,
    PoolObservation,
    ProvisionerState,
    ReplicaStage,
    SeriesMemory,
)
from cluster.entities.pool import Role
from cluster.performance.capacity import Mix, Objective, Work, rate_max
from cluster.policy.provisioning.baselines.per_pool import decide_each
from cluster.policy.provisioning.carrying import on_grid

ADJUSTMENT_INTERVAL_S = 180.0
_OUTPUT_TOKENS = 256.0
"""Taken for the mean answer as long as none is complete."""
_EPSILON_S = 1e-6


def decide(snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig) -> FleetDecision:
    """Decide (the contract is `interface.ProvisioningPolicy`)."""
    series = _counted(snapshot, state)
    now_s = snapshot.observed_at_s

    def rule(
        pool: PoolObservation, settings: PoolConfig, memory: PoolMemory, _: FleetSnapshot
    ) -> tuple[int, PoolMemory]:
        del settings
        last_s = memory.changed_up_at_s
        if last_s is not None and now_s - last_s < ADJUSTMENT_INTERVAL_S - _EPSILON_S:
            return pool.replicas_wanted, memory
        memory = replace(memory, changed_up_at_s=now_s)
        if last_s is None:
            # The first interval begins.
            return pool.replicas_wanted, memory
        return _replicas(pool, snapshot, series[_key(pool.model)], config), memory

    decision = decide_each(snapshot, state, config, rule)
    adjusted = any(memory.changed_up_at_s == now_s for memory in decision.state.pools.values())
    return replace(decision, state=replace(decision.state, series={} if adjusted else series))


def _key(model: str) -> str:
    # Apart from the series that other policies remember: a state may have been left by one of them.
    return f"interpolation/{model}"


def _counted(snapshot: FleetSnapshot, state: ProvisionerState) -> dict[str, SeriesMemory]:
    """Demand by model since the last adjustment: the span and the sums, in `moments` and `tokens`."""
    span_s = max(
        0.0, snapshot.demand.ended_at_s - max(snapshot.demand.started_at_s, state.demand_seen_until_s)
    )
    series = {}
    for model in sorted({pool.model for pool in snapshot.pools}):
        memory = state.series.get(_key(model), SeriesMemory())
        sums = list(memory.tokens or (0.0,) * 8)
        if span_s > 0:
            for demand in snapshot.demand.classes:
                if demand.model == model:
                    sums = [old + new for old, new in zip(sums, demand.token_sums, strict=True)]
        elapsed_s = (memory.moments[0] if memory.moments else 0.0) + span_s
        series[_key(model)] = replace(memory, moments=(elapsed_s,), tokens=tuple(sums))
    return series


def _mean_mix(memory: SeriesMemory) -> tuple[float, Mix] | None:
    """Requests per second and what they were like; None if there were none."""
    arrivals, prompt, squares, completions, completed, cached, output, attended = memory.tokens
    span_s = memory.moments[0]
    if arrivals <= 0 or span_s <= 0:
        return None
    computed = 1.0 - (min(1.0, cached / completed) if completed > 0 else 0.0)
    mix = Mix(
        prompt_tokens=on_grid(prompt / arrivals),
        uncached_tokens=on_grid(prompt / arrivals * computed),
        uncached_tokens_squared=on_grid(squares / arrivals * computed * computed),
        output_tokens=on_grid(output / completions if completions > 0 else _OUTPUT_TOKENS),
        context_tokens=on_grid(attended / output if output > 0 else prompt / arrivals + _OUTPUT_TOKENS / 2.0),
    )
    return arrivals / span_s, mix


def _replicas(
    pool: PoolObservation, snapshot: FleetSnapshot, memory: SeriesMemory, config: TidemillConfig
) -> int:
    found = _mean_mix(memory)
    if found is None:
        return 1
    rate_per_s, mix = found
    alike = [
        other
        for other in snapshot.pools
        if other.model == pool.model and (other.role is Role.PREFILL) == (pool.role is Role.PREFILL)
    ]
    each = {other.pool: _rate_max(other, snapshot, mix, config) for other in alike}
    carried = {
        other.pool: each[other.pool] * other.count(ReplicaStage.READY, ReplicaStage.STARTING)
        for other in alike
    }
    total = sum(carried.values())
    share = carried[pool.pool] / total if total > 0 else 1.0 / len(alike)
    if each[pool.pool] <= 0:
        return 1
    # A share of a sum of floats is not to cost a replica.
    return max(1, math.ceil(rate_per_s * share / each[pool.pool] - 1e-9))


def _rate_max(pool: PoolObservation, snapshot: FleetSnapshot, mix: Mix, config: TidemillConfig) -> float:
    slo = config.models[pool.model].slo
    objective = Objective(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s, attainment=slo.attainment)
    work = {Role.PREFILL: Work.PROMPTS, Role.DECODE: Work.ANSWERS}.get(pool.role, Work.WHOLE)
    prefilled = any(p.role is Role.PREFILL for p in snapshot.pools if p.model == pool.model)
    if work is Work.ANSWERS and not prefilled:
        work = Work.WHOLE
    return rate_max(pool.performance, mix, objective, work=work)
