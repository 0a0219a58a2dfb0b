"""Kubernetes' Horizontal Pod Autoscaler (autoscaling/v2 defaults) on utilisation.

desired = ceil(replicas · metric / target); replicas that are not ready count as idle where that would grow
the pool and not at all where it would shrink it. The metric is how full the ready replicas are: KV cache or
request slots, whichever is fuller; the target is 70 %. What is done with a wish: `behaviour`.
"""

import math

from cluster.config.pools import PoolConfig
from cluster.config.root import TidemillConfig
from cluster.entities.fleet import (
    FleetDecision,
    FleetSnapshot,
    PoolMemory,
    PoolObservation,
    ProvisionerState,
    ReplicaStage,
)
from cluster.policy.provisioning.baselines.behaviour import behaved, is_due, is_tolerated
from cluster.policy.provisioning.baselines.per_pool import (
    backlog_share,
    decide_each,
    ready_replicas,
    requests_ongoing,
)

TARGET = 0.7


def decide(snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig) -> FleetDecision:
    """Decide (the contract is `interface.ProvisioningPolicy`)."""
    return decide_each(snapshot, state, config, _rule)


def _rule(
    pool: PoolObservation, settings: PoolConfig, memory: PoolMemory, snapshot: FleetSnapshot
) -> tuple[int, PoolMemory]:
    now_s, current = snapshot.observed_at_s, pool.replicas_wanted
    waiting = backlog_share(pool, snapshot)
    ready = pool.count(ReplicaStage.READY)
    if ready == 0:
        # There is nothing to measure; what waits in front of an empty pool wakes one.
        return (max(1, current) if waiting else current), memory
    if not is_due(memory, now_s):
        return current, memory
    starting = pool.count(ReplicaStage.STARTING)
    wish = _wish(_metric(pool, settings, ready, waiting) / TARGET, ready, starting, current)
    return behaved(max(1, wish), current, memory, now_s)


def _wish(ratio: float, ready: int, starting: int, current: int) -> int:
    if is_tolerated(ratio):
        return current
    if ratio > 1.0 and starting:
        spread = ratio * ready / (ready + starting)
        if spread < 1.0 or is_tolerated(spread):
            # What starts will do; it is not to be taken away either.
            return current
    return math.ceil(ratio * ready)


def _metric(pool: PoolObservation, settings: PoolConfig, ready: int, waiting: float) -> float:
    cache = sum(replica.kv_cache_usage for replica in ready_replicas(pool)) / ready
    slots = (requests_ongoing(pool) + waiting) / (ready * settings.max_concurrent_requests)
    return max(cache, slots)
