"""KEDA on vLLM's waiting requests, as vLLM production-stack ships it.

desired = ceil(waiting / 5), at least one; polled every 15 s; what KEDA hands to the autoscaler behind it
shrinks after 300 s. A queue is empty until a replica is full: the rule knows of load when it is too late.
"""

import math
from dataclasses import replace

from cluster.config.pools import PoolConfig
from cluster.config.root import TidemillConfig
from cluster.entities.fleet import FleetDecision, FleetSnapshot, PoolMemory, PoolObservation, ProvisionerState
from cluster.policy.provisioning.baselines.per_pool import backlog_share, decide_each

WAITING_PER_REPLICA = 5.0
POLL_S = 15.0
SCALE_DOWN_WINDOW_S = 300.0
TOLERANCE = 0.1


def decide(snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig) -> FleetDecision:
    """Decide (the contract is `interface.ProvisioningPolicy`)."""
    return decide_each(snapshot, state, config, _rule)


def _rule(
    pool: PoolObservation, settings: PoolConfig, memory: PoolMemory, snapshot: FleetSnapshot
) -> tuple[int, PoolMemory]:
    del settings
    now_s, current = snapshot.observed_at_s, pool.replicas_wanted
    if memory.wishes and now_s - memory.wishes[-1][0] < POLL_S - 1e-6:
        return current, memory
    queued = sum(replica.requests_waiting for replica in pool.replicas) + backlog_share(pool, snapshot)
    # An average value per replica: the autoscaler divides the sum by the target.
    ratio = queued / (WAITING_PER_REPLICA * max(1, current))
    desired = current if abs(ratio - 1.0) <= TOLERANCE else max(1, math.ceil(queued / WAITING_PER_REPLICA))
    wishes = tuple(wish for wish in memory.wishes if wish[0] > now_s - SCALE_DOWN_WINDOW_S)
    memory = replace(memory, wishes=(*wishes, (now_s, desired)))
    if desired >= current:
        return desired, memory
    return min(current, max(count for _, count in memory.wishes)), memory
