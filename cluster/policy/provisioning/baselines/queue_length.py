"""KEDA on vLLM's waiting requests, as the chart of vLLM production-stack ships it.

desired = ceil(waiting / 5), at least one: the chart's default trigger is `vllm:num_requests_waiting` with a
threshold of 5 (helm/templates/scaledobject-vllm.yaml), which KEDA hands to a Horizontal Pod Autoscaler as an
average value per replica. What that does with a wish: `behaviour`. A queue is empty until a replica is full:
the rule knows of load when it is late, and of the end of load too soon.
"""

import math

from cluster.config.pools import PoolConfig
from cluster.config.root import TidemillConfig
from cluster.entities.fleet import FleetDecision, FleetSnapshot, PoolMemory, PoolObservation, ProvisionerState
from cluster.policy.provisioning.baselines.behaviour import behaved, is_due, is_tolerated
from cluster.policy.provisioning.baselines.per_pool import backlog_share, decide_each, ready_replicas

WAITING_PER_REPLICA = 5.0


def decide(snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig) -> FleetDecision:
    """Decide (the contract is `interface.ProvisioningPolicy`)."""
    return decide_each(snapshot, state, config, _rule)


def _rule(
    pool: PoolObservation, settings: PoolConfig, memory: PoolMemory, snapshot: FleetSnapshot
) -> tuple[int, PoolMemory]:
    del settings
    now_s, current = snapshot.observed_at_s, pool.replicas_wanted
    if not is_due(memory, now_s):
        return current, memory
    waiting = sum(replica.requests_waiting for replica in ready_replicas(pool))
    queued = waiting + backlog_share(pool, snapshot)
    ratio = queued / (WAITING_PER_REPLICA * max(1, current))
    wish = current if is_tolerated(ratio) else math.ceil(queued / WAITING_PER_REPLICA)
    return behaved(max(1, wish), current, memory, now_s)
