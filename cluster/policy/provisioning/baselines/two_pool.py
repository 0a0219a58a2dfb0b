"""FleetOpt (arXiv 2603.16514): a pool for short prompts, one for long ones, sized as M/G/c queues.

KV cache is reserved by the longest context, each of a replica's slots is a server, and the pools are sized so
that the 99th percentile of the wait (vllm_sr_sim's form: ln(C/0.01)·(1+cv²)/(2(cμ−λ)), here with cv = 1, for
no snapshot has the spread of answers) and the utilisation of 0.85 hold. The boundary is the band of prompt
lengths at which both pools together cost least. The paper sizes for one hour's distribution; so does this,
once an hour. Of a model's pools those two are used that cost least; without long prompts one is enough.
The paper takes a chunk of 512 prompt tokens for a step like any other; our chunks are larger, so that the
time to compute them is added.
"""

import math
from dataclasses import dataclass, replace

from cluster.config.root import TidemillConfig
from cluster.entities.fleet import (
    ClassDemand,
    FleetDecision,
    FleetPlan,
    FleetSnapshot,
    PoolMemory,
    PoolObservation,
    PoolTarget,
    ProvisionerState,
    SeriesMemory,
)
from cluster.entities.pool import Role
from cluster.policy.provisioning.baselines.per_pool import pool_target
from cluster.policy.workload_class import class_upper_tokens, workload_classes

INTERVAL_S = 3600.0
FIRST_S = 60.0
"""The first sizing does not wait for an hour of demand."""
UTILISATION_MAX = 0.85
LONGEST_TOKENS = 65_536


_Sized = tuple[int, tuple[int, int | None]]
"""Replicas, and the shortest and longest prompts."""


@dataclass(frozen=True, slots=True)
class _Load:
    rate_per_s: float
    prompt_tokens: float
    output_tokens: float
    upper_tokens: int


def decide(snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig) -> FleetDecision:
    """Decide (the contract is `interface.ProvisioningPolicy`)."""
    series = _counted(snapshot, state, config)
    elapsed_s = next((memory.moments[0] for memory in series.values() if memory.moments), 0.0)
    first = not state.pools
    due = elapsed_s >= (FIRST_S if first else INTERVAL_S)
    if not due:
        last = {target.pool: _kept(target) for target in state.plan.pools} if state.plan else {}
        plan = FleetPlan(
            pools=tuple(
                pool_target(
                    pool, config.pools[pool.pool], *last.get(pool.pool, (pool.replicas_wanted, (0, None)))
                )
                for pool in snapshot.pools
            )
        )
        # What was sized is remembered, not what hardware allows at the moment: that may come back.
        kept = replace(
            state,
            series=series,
            demand_seen_until_s=snapshot.demand.ended_at_s,
            plan=state.plan or plan,
        )
        return FleetDecision(plan=plan, state=kept)
    wanted: dict[str, _Sized] = {}
    for model in sorted({pool.model for pool in snapshot.pools}):
        pools = [p for p in snapshot.pools if p.model == model and p.role is not Role.PREFILL]
        wanted |= _sized(pools, _loads(model, series, config), config)
    plan = FleetPlan(
        pools=tuple(
            pool_target(pool, config.pools[pool.pool], *wanted.get(pool.pool, (0, (0, None))))
            for pool in snapshot.pools
        )
    )
    memories = {str(pool.pool): PoolMemory(changed_up_at_s=snapshot.observed_at_s) for pool in snapshot.pools}
    return FleetDecision(
        plan=plan,
        state=ProvisionerState(
            pools=memories, demand_seen_until_s=snapshot.demand.ended_at_s, plan=plan, series={}
        ),
    )


def _kept(target: PoolTarget) -> _Sized:
    return target.replicas, (target.prompt_tokens_min, target.prompt_tokens_max)


def _key(model: str, name: str) -> str:
    # Apart from the series that other policies remember: a state may have been left by one of them.
    return f"two_pool/{model}/{name}"


def _counted(
    snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig
) -> dict[str, SeriesMemory]:
    started_s = max(snapshot.demand.started_at_s, state.demand_seen_until_s)
    span_s = max(0.0, snapshot.demand.ended_at_s - started_s)
    found = {(demand.model, demand.workload_class): demand for demand in snapshot.demand.classes}
    series = {}
    for model in sorted({pool.model for pool in snapshot.pools}):
        for name in workload_classes(config.provisioning.prompt_bands):
            memory = state.series.get(_key(model, name), SeriesMemory())
            old = memory.tokens or (0.0,) * 4
            demand = found.get((model, name), ClassDemand(model=model, workload_class=name))
            new = (demand.arrivals, demand.prompt_tokens, demand.completions, demand.output_tokens)
            series[_key(model, name)] = SeriesMemory(
                moments=((memory.moments[0] if memory.moments else 0.0) + span_s,),
                tokens=tuple(a + b for a, b in zip(old, new, strict=True)) if span_s > 0 else old,
            )
    return series


def _loads(model: str, series: dict[str, SeriesMemory], config: TidemillConfig) -> list[_Load]:
    loads = []
    for name in workload_classes(config.provisioning.prompt_bands):
        memory = series[_key(model, name)]
        arrivals, prompt, completions, output = memory.tokens
        loads.append(
            _Load(
                arrivals / memory.moments[0] if memory.moments[0] > 0 else 0.0,
                prompt / arrivals if arrivals else 1.0,
                output / completions if completions else 256.0,
                class_upper_tokens(name) or LONGEST_TOKENS,
            )
        )
    return loads


def _sized(pools: list[PoolObservation], loads: list[_Load], config: TidemillConfig) -> dict[str, _Sized]:
    """The cheapest of all choices of boundary and of the two pools."""
    best: tuple[float, dict[str, _Sized]] | None = None
    for boundary in range(1, len(loads) + 1):
        for short in pools:
            for long in pools if boundary < len(loads) else (short,):
                if boundary < len(loads) and long is short and len(pools) > 1:
                    continue
                option = _option(short, long, loads, boundary, config)
                if best is None or option[0] < best[0]:
                    best = option
    return {} if best is None else best[1]


def _option(
    short: PoolObservation, long: PoolObservation, loads: list[_Load], boundary: int, config: TidemillConfig
) -> tuple[float, dict[str, _Sized]]:
    ttft_s = config.models[short.model].slo.ttft_s
    low, high = loads[:boundary], loads[boundary:]
    # Nobody sends longer prompts: should one come, the first pool takes it.
    upper = low[-1].upper_tokens if any(load.rate_per_s > 0 for load in high) else None
    counts: dict[str, _Sized] = {str(short.pool): (_replicas(short, low, ttft_s), (0, upper))}
    if high:
        more = _replicas(long, high, ttft_s)
        together = long is short
        limits = (0, None) if together or upper is None else (upper + 1, None)
        counts[str(long.pool)] = (more + counts[str(short.pool)][0] if together else more, limits)
    cost = sum(
        count * pool.performance.price_usd_per_h + 1e-3 * count
        for pool in {id(p): p for p in (short, long)}.values()
        for count, _ in (counts[str(pool.pool)],)
    )
    beyond = any(counts[str(p.pool)][0] > config.pools[p.pool].replicas.max for p in (short, long))
    return cost + (1e9 if beyond else 0.0), counts


def _replicas(pool: PoolObservation, loads: list[_Load], ttft_s: float) -> int:
    rate = sum(load.rate_per_s for load in loads)
    if rate <= 0:
        return 0
    longest = loads[-1].upper_tokens
    performance = pool.performance
    slots = max(1, min(performance.sequences_max, performance.kv_tokens_max // longest))
    prompt = sum(load.rate_per_s * load.prompt_tokens for load in loads) / rate
    output = sum(load.rate_per_s * load.output_tokens for load in loads) / rate
    step_s = (
        performance.step_base_s
        + performance.step_per_sequence_s * slots
        + performance.step_per_context_token_s * slots * (prompt + output / 2.0)
    )
    steps = math.ceil(prompt / performance.batch_tokens_max) + output
    # All slots' prompts are computed within the steps that all slots share.
    service_s = steps * step_s + slots * performance.prefill_token_s * prompt
    lowest = math.ceil(rate * service_s / (slots * UTILISATION_MAX))
    for count in range(max(1, lowest), 10_000):
        if _wait_p99_s(rate, service_s, count * slots) <= ttft_s:
            return count
    return 10_000


def _wait_p99_s(rate: float, service_s: float, servers: int) -> float:
    load = rate * service_s
    if load >= servers:
        return math.inf
    # Erlang B by its recursion, then C.
    blocked = 1.0
    for server in range(1, servers + 1):
        blocked = load * blocked / (server + load * blocked)
    delayed = blocked / (1.0 - load / servers * (1.0 - blocked))
    if delayed <= 0.01:
        return 0.0
    return math.log(delayed / 0.01) * 2.0 / (2.0 * (servers / service_s - rate))
