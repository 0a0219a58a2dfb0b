"""Kubernetes' Horizontal Pod Autoscaler (autoscaling/v2 defaults) on utilisation.

desired = ceil(current · metric / target), left alone within a tolerance of 10 %; growing by at most 4
replicas or 100 % in 15 s; shrinking to the largest wish of the past 300 s. The metric is how full the
replicas of the pool are: KV cache or request slots, whichever is fuller; the target is 70 %.
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
)
from cluster.policy.provisioning.baselines.per_pool import backlog_share, decide_each, requests_running

TARGET = 0.7
TOLERANCE = 0.1
SCALE_DOWN_WINDOW_S = 300.0
SCALE_UP_PERIOD_S = 15.0
SCALE_UP_REPLICAS = 4


def decide(snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig) -> FleetDecision:
    """Decide (the contract is `interface.ProvisioningPolicy`)."""
    return decide_each(snapshot, state, config, _rule)


def _rule(
    pool: PoolObservation, settings: PoolConfig, memory: PoolMemory, snapshot: FleetSnapshot
) -> tuple[int, PoolMemory]:
    now_s, current = snapshot.observed_at_s, pool.replicas_wanted
    ready = pool.count(ReplicaStage.READY)
    if ready == 0:
        return (max(1, current) if backlog_share(pool, snapshot) else current), memory
    ratio = _metric(pool, settings, ready, backlog_share(pool, snapshot)) / TARGET
    # Replicas that are not ready are left out, as the HPA does.
    desired = current if abs(ratio - 1.0) <= TOLERANCE else math.ceil(ready * ratio)
    wishes = tuple(wish for wish in memory.wishes if wish[0] > now_s - SCALE_DOWN_WINDOW_S)
    memory = replace(memory, wishes=(*wishes, (now_s, desired)))
    if desired > current:
        last_s = memory.changed_up_at_s
        if last_s is not None and now_s - last_s < SCALE_UP_PERIOD_S:
            return current, memory
        limit = current + max(SCALE_UP_REPLICAS, current)
        return min(desired, limit), replace(memory, changed_up_at_s=now_s)
    return min(current, max(1, *(count for _, count in memory.wishes))), memory


def _metric(pool: PoolObservation, settings: PoolConfig, ready: int, waiting: float) -> float:
    cache = sum(replica.kv_cache_usage for replica in pool.replicas) / ready
    slots = (requests_running(pool) + waiting) / (ready * settings.max_concurrent_requests)
    return max(cache, slots)
