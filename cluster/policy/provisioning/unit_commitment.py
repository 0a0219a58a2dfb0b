"""The default policy: forecast, unit commitment over all pools together, damping.

What it does that the rules it is compared with do not: it plans the pools of a model together, so that the
hardware that serves a load best is awake and the rest asleep; it looks ahead by the time a replica takes to
start; it knows power, and keeps a cap on it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.config.root import TidemillConfig
from cluster.entities.fleet import (
    ClassForecast,
    FleetDecision,
    FleetPlan,
    FleetSnapshot,
    PoolMemory,
    PoolObservation,
    PoolTarget,
    ProvisionerState,
    ReplicaStage,
)
from cluster.entities.pool import Role
from cluster.entities.reasons import Reason
from cluster.policy.provisioning.clock import set_back
from cluster.policy.provisioning.commitment import Commitment
from cluster.policy.provisioning.damping import (
    DampedTarget,
    awaited_models,
    damped,
)
from cluster.policy.provisioning.demand import forecast_demand, held_demand, seated_demand
from cluster.policy.provisioning.drain import drain_order
from cluster.policy.provisioning.least_change import commit_with_least_change
from cluster.policy.provisioning.program import PlannedProgram, PoolLimits, program_of


def decide(
    snapshot: FleetSnapshot,
    state: ProvisionerState,
    config: TidemillConfig,
    *,
    solver_limit_s: float = math.inf,
) -> FleetDecision:
    """Decide (the contract is `interface.ProvisioningPolicy`).

    Args:
        snapshot: see there.
        state: see there.
        config: see there.
        solver_limit_s: how long all programs together may take to solve. A decision that this has cut short
            says so: it cannot be taken again.
    """
    now_s = snapshot.observed_at_s
    state = set_back(state, now_s)
    series, made_tokens, forecasts = forecast_demand(snapshot, state, config)
    memories: dict[str, PoolMemory] = {}
    limits: dict[str, PoolLimits] = {}
    for pool in snapshot.pools:
        memories[pool.pool] = _placing(pool, state, config, now_s)
        limits[pool.pool] = _limits(
            pool, memories[pool.pool], config, now_s=now_s, stale=_is_stale(snapshot, pool, config)
        )
    cap_w = config.provisioning.power_cap_w(now_s)
    held, peaks, planned_work = held_demand(snapshot, forecasts, state, config)
    seated, peaks_under_way = seated_demand(snapshot, state, config)
    settled = _settled(snapshot, memories, config)
    planned = _planned(
        snapshot,
        held,
        limits,
        seated,
        settled=settled,
        config=config,
        cap_w=cap_w,
        solver_limit_s=solver_limit_s,
    )
    wishes, spared = _wishes(planned, limits, config)
    targets = _damped(snapshot, wishes, memories, limits, config)
    if cap_w is not None:
        targets = _under_cap(targets, wishes, planned, cap_w)
    lengths = {name: upper for program, _ in planned for name, upper in program.prompt_tokens_max.items()}
    plan = FleetPlan(
        pools=tuple(
            _target(pool, targets[pool.pool], lengths.get(pool.pool), limits[pool.pool], pool.pool in spared)
            for pool in snapshot.pools
        ),
        power_w=_power_w(planned, {name: target.replicas for name, target in targets.items()}),
        power_cap_w=cap_w,
        degraded=any(_is_degraded(found) for _, found in planned),
    )
    return FleetDecision(
        plan=plan,
        state=ProvisionerState(
            series=series,
            pools={name: target.memory for name, target in targets.items()},
            peaks=peaks | peaks_under_way,
            planned_work=planned_work,
            made_tokens=made_tokens,
            demand_seen_until_s=max(state.demand_seen_until_s, snapshot.demand.ended_at_s),
            plan=plan,
        ),
        forecast=tuple(forecasts),
        reasons=_reasons(snapshot, planned, forecasts, held, cap_w),
    )


# Bounds


def _placing(
    pool: PoolObservation, state: ProvisionerState, config: TidemillConfig, now_s: float
) -> PoolMemory:
    """Note it when replicas that are wanted find no hardware."""
    memory = state.pools.get(pool.pool, PoolMemory())
    damping = config.provisioning.damping
    waiting_s = now_s - pool.unplaced_since_s if pool.unplaced_since_s is not None else 0.0
    until_s = memory.unplaceable_until_s
    if waiting_s >= damping.unplaceable_after_s and (until_s is None or until_s <= now_s):
        return replace(memory, unplaceable_until_s=now_s + damping.unplaceable_retry_s)
    if until_s is not None and until_s <= now_s:
        return replace(memory, unplaceable_until_s=None)
    return memory


def _limits(
    pool: PoolObservation, memory: PoolMemory, config: TidemillConfig, *, now_s: float, stale: bool
) -> PoolLimits:
    bounds = config.pools[pool.pool].replicas
    existing = pool.count(ReplicaStage.READY, ReplicaStage.STARTING)
    highest = bounds.max
    if pool.replicas_placeable is not None:
        highest = min(highest, pool.replicas_placeable)
    if memory.unplaceable_until_s is not None and now_s < memory.unplaceable_until_s:
        highest = min(highest, pool.count(ReplicaStage.READY))
    elif pool.replicas_placeable is not None:
        highest = max(highest, min(existing, bounds.max))
    # On old news nothing is taken away, and so nothing need be put in its place.
    lowest = max(bounds.min, min(bounds.max, pool.replicas_wanted)) if stale else bounds.min
    return PoolLimits(replicas_min=lowest, replicas_max=max(lowest, highest))


# Commitment


def _planned(
    snapshot: FleetSnapshot,
    forecasts: Sequence[ClassForecast],
    limits: Mapping[str, PoolLimits],
    under_way: Mapping[str, float],
    *,
    settled: frozenset[str],
    config: TidemillConfig,
    cap_w: float | None,
    solver_limit_s: float,
) -> list[tuple[PlannedProgram, Commitment]]:
    """One program for each model; with a power cap, which couples them, one for all."""
    demanded = {forecast.model for forecast in forecasts}
    models = sorted({pool.model for pool in snapshot.pools if pool.model in demanded})
    groups = [models] if models and cap_w is not None else [[model] for model in models]
    backlog = {waiting.model: float(waiting.requests) for waiting in snapshot.backlog}
    return [
        _solved(
            [p for p in snapshot.pools if p.model in group],
            forecasts,
            limits,
            backlog,
            under_way=under_way,
            settled=settled.issuperset(group),
            config=config,
            cap_w=cap_w,
            limit_s=solver_limit_s / len(groups),
        )
        for group in groups
    ]


def _solved(
    pools: Sequence[PoolObservation],
    forecasts: Sequence[ClassForecast],
    limits: Mapping[str, PoolLimits],
    backlog: Mapping[str, float],
    *,
    under_way: Mapping[str, float],
    settled: bool,
    config: TidemillConfig,
    cap_w: float | None,
    limit_s: float,
) -> tuple[PlannedProgram, Commitment]:
    planned = program_of(
        config,
        pools,
        forecasts,
        limits=limits,
        backlog=backlog,
        under_way=under_way,
        replicas={pool.pool: max(1, pool.replicas_wanted) for pool in pools},
        power_cap_w=cap_w,
    )
    # A mix that has just changed is not exchanged for another, whatever that would save.
    tolerance = config.provisioning.damping.tolerance
    return planned, commit_with_least_change(
        planned.program, tolerance, dearer=tolerance if settled else math.inf, limit_s=limit_s
    )


def _settled(
    snapshot: FleetSnapshot, memories: Mapping[str, PoolMemory], config: TidemillConfig
) -> frozenset[str]:
    """Models none of whose pools has changed within the scale-down window."""
    since_s = snapshot.observed_at_s - config.provisioning.damping.scale_down_window_s
    moving = {
        pool.model
        for pool in snapshot.pools
        for changed_at_s in (memories[pool.pool].changed_up_at_s, memories[pool.pool].changed_down_at_s)
        if changed_at_s is not None and changed_at_s > since_s
    }
    return frozenset({pool.model for pool in snapshot.pools} - moving)


def _wishes(
    planned: Sequence[tuple[PlannedProgram, Commitment]],
    limits: Mapping[str, PoolLimits],
    config: TidemillConfig,
) -> tuple[dict[str, int], frozenset[str]]:
    """Replicas by pool, spares included, and the pools that have one."""
    wishes: dict[str, int] = {}
    spared: set[str] = set()
    for program, found in planned:
        wishes.update(
            (column.pool, count) for column, count in zip(program.program.pools, found.replicas, strict=True)
        )
        for model in sorted({pool.model for pool in program.pools}):
            spared |= _spare(model, program, limits, config, wishes)
    return wishes, frozenset(spared)


def _spare(
    model: str,
    program: PlannedProgram,
    limits: Mapping[str, PoolLimits],
    config: TidemillConfig,
    wishes: dict[str, int],
) -> set[str]:
    """Add the spares of a model where they idle most cheaply; a pool in use first."""
    answering = [
        (wishes[pool.pool] == 0, column.usd_per_h, pool.pool)
        for pool, column in zip(program.pools, program.program.pools, strict=True)
        if pool.model == model and pool.role is not Role.PREFILL
    ]
    spared: set[str] = set()
    for _ in range(config.provisioning.spare_replicas):
        room = [name for _, _, name in sorted(answering) if wishes[name] < limits[name].replicas_max]
        if not room:
            break
        wishes[room[0]] += 1
        spared.add(room[0])
    return spared


# Damping


def _damped(
    snapshot: FleetSnapshot,
    wishes: dict[str, int],
    memories: Mapping[str, PoolMemory],
    limits: Mapping[str, PoolLimits],
    config: TidemillConfig,
) -> dict[str, DampedTarget]:
    pools = {str(pool.pool): pool for pool in snapshot.pools}
    for name in pools:
        # A model nobody has asked for yet has no program; its pools fall to their minimum.
        wishes.setdefault(name, limits[name].replicas_min)
    awaited = awaited_models(pools, wishes)
    return {
        name: damped(
            pool,
            wishes[name],
            memories[name],
            config.provisioning.damping,
            limits=limits[name],
            now_s=snapshot.observed_at_s,
            stale=_is_stale(snapshot, pool, config),
            replaced=bool(awaited.get(pool.model, frozenset()) - {name}),
        )
        for name, pool in pools.items()
    }


def _is_stale(snapshot: FleetSnapshot, pool: PoolObservation, config: TidemillConfig) -> bool:
    oldest_s = snapshot.observed_at_s - config.provisioning.damping.stale_after_s
    if snapshot.demand.ended_at_s < oldest_s:
        return True
    return pool.reported_at_s is not None and pool.reported_at_s < oldest_s


def _under_cap(
    targets: dict[str, DampedTarget],
    wishes: Mapping[str, int],
    planned: Sequence[tuple[PlannedProgram, Commitment]],
    cap_w: float,
) -> dict[str, DampedTarget]:
    """Where damping would hold more than the cap allows, the undamped plan is taken: the cap is hard."""
    power_w = _power_w(planned, {name: target.replicas for name, target in targets.items()})
    if power_w is None or power_w <= cap_w:
        return targets
    return {
        name: replace(target, replicas=min(target.replicas, wishes[name]), reasons=(Reason.POWER_CAP,))
        if target.replicas > wishes[name]
        else target
        for name, target in targets.items()
    }


def _power_w(
    planned: Sequence[tuple[PlannedProgram, Commitment]], replicas: Mapping[str, int]
) -> float | None:
    if not planned:
        return None
    total = 0.0
    for program, found in planned:
        total += sum(column.watts * replicas[column.pool] for column in program.program.pools)
        flows = zip(program.program.flows, found.flows_per_s, strict=True)
        total += sum(flow.watts * rate for flow, rate in flows)
    return total


# Reasons


def _target(
    pool: PoolObservation,
    target: DampedTarget,
    prompt_tokens_max: int | None,
    limits: PoolLimits,
    spared: bool,
) -> PoolTarget:
    reasons = list(target.reasons)
    if target.replicas >= limits.replicas_max > limits.replicas_min:
        reasons.append(Reason.AT_MAXIMUM)
    elif target.replicas <= limits.replicas_min:
        reasons.append(Reason.AT_MINIMUM)
    if target.memory.unplaceable_until_s is not None:
        reasons.append(Reason.UNPLACEABLE)
    if spared:
        reasons.append(Reason.SPARE)
    shrinks = target.replicas < pool.count(ReplicaStage.READY, ReplicaStage.STARTING)
    return PoolTarget(
        pool=pool.pool,
        replicas=target.replicas,
        prompt_tokens_max=prompt_tokens_max,
        drain_first=drain_order(pool) if shrinks else (),
        reasons=tuple(reasons),
    )


def _is_degraded(found: Commitment) -> bool:
    return found.capped or any(rate > 0.0 for rate in found.unserved_per_s)


def _reasons(
    snapshot: FleetSnapshot,
    planned: Sequence[tuple[PlannedProgram, Commitment]],
    forecasts: Sequence[ClassForecast],
    held: Sequence[ClassForecast],
    cap_w: float | None,
) -> tuple[Reason, ...]:
    reasons = []
    if sum(found.arrivals_per_s for found in held) > 1.05 * sum(found.arrivals_per_s for found in forecasts):
        reasons.append(Reason.HELD_BY_STABILISATION)
    if not any(forecast.arrivals_per_s > 0 for forecast in forecasts):
        reasons.append(Reason.NO_DEMAND)
    if any(waiting.requests for waiting in snapshot.backlog):
        reasons.append(Reason.BACKLOG)
    if any(found.stopped for _, found in planned):
        reasons.append(Reason.SOLVER_STOPPED)
    if any(_is_degraded(found) for _, found in planned):
        reasons.append(Reason.SLO_NOT_MET)
        if cap_w is not None:
            reasons.append(Reason.POWER_CAP)
    return tuple(reasons)
