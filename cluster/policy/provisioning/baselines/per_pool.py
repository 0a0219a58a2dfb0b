"""What rules that look at one pool at a time have in common: bounds, memory, the form of the plan."""

from collections.abc import Callable
from dataclasses import replace

from cluster.config.pools import PoolConfig
from cluster.config.root import TidemillConfig
from cluster.entities.fleet import (
    FleetDecision,
    FleetPlan,
    FleetSnapshot,
    PoolMemory,
    PoolObservation,
    PoolTarget,
    ProvisionerState,
    ReplicaObservation,
    ReplicaStage,
)
from cluster.entities.reasons import Reason
from cluster.policy.provisioning.drain import drain_order

PoolRule = Callable[[PoolObservation, PoolConfig, PoolMemory, FleetSnapshot], tuple[int, PoolMemory]]
"""Replicas wanted and what to remember."""


def decide_each(
    snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig, rule: PoolRule
) -> FleetDecision:
    """Apply a rule to every pool, within its bounds."""
    targets, memories = [], {}
    for pool in snapshot.pools:
        settings = config.pools[pool.pool]
        memory = state.pools.get(pool.pool, PoolMemory())
        wanted, memory = rule(pool, settings, memory, snapshot)
        targets.append(pool_target(pool, settings, wanted))
        memories[str(pool.pool)] = memory
    plan = FleetPlan(pools=tuple(targets))
    new_state = replace(state, pools=memories, demand_seen_until_s=snapshot.demand.ended_at_s, plan=plan)
    return FleetDecision(plan=plan, state=new_state)


def pool_target(
    pool: PoolObservation,
    settings: PoolConfig,
    wanted: int,
    prompt_limits: tuple[int, int | None] = (0, None),
) -> PoolTarget:
    """A target within the bounds of the configuration and the hardware."""
    highest = settings.replicas.max
    if pool.replicas_placeable is not None:
        highest = min(highest, max(pool.replicas_placeable, settings.replicas.min))
    replicas = min(max(wanted, settings.replicas.min), highest)
    current = pool.replicas_wanted
    reason = (
        Reason.DEMAND_RISING
        if replicas > current
        else Reason.DEMAND_FALLING
        if replicas < current
        else Reason.UNCHANGED
    )
    shrinks = replicas < pool.count(ReplicaStage.READY, ReplicaStage.STARTING)
    return PoolTarget(
        pool=pool.pool,
        replicas=replicas,
        prompt_tokens_min=prompt_limits[0],
        prompt_tokens_max=prompt_limits[1],
        drain_first=drain_order(pool) if shrinks else (),
        reasons=(reason,),
    )


def requests_ongoing(pool: PoolObservation) -> int:
    """Requests on the pool's ready replicas, waiting ones included; those that drain are nobody's load."""
    return sum(replica.requests_running + replica.requests_waiting for replica in ready_replicas(pool))


def ready_replicas(pool: PoolObservation) -> list[ReplicaObservation]:
    """The replicas whose metrics count, as autoscalers leave out what starts and what is on its way out."""
    return [replica for replica in pool.replicas if replica.stage is ReplicaStage.READY]


def backlog_share(pool: PoolObservation, snapshot: FleetSnapshot) -> float:
    """The pool's part of what waits in the routers for its model: pools of a model share it alike."""
    waiting = sum(backlog.requests for backlog in snapshot.backlog if backlog.model == pool.model)
    pools = sum(1 for other in snapshot.pools if other.model == pool.model)
    return waiting / max(1, pools)
