"""Ray Serve's own autoscaling: replicas by ongoing requests (Ray 2.60, `ray.serve.autoscaling_policy`).

Wanted are as many replicas as bring the ongoing requests of each, averaged over 30 s, to the target. A wish
to grow must hold for 30 s, a wish to shrink for 600 s. The target, which Ray leaves to the user, is here 70 %
of the requests that a replica may have (`max_concurrent_requests`).
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
from cluster.policy.provisioning.baselines.per_pool import backlog_share, decide_each, requests_ongoing

TARGET_SHARE = 0.7
UPSCALE_DELAY_S = 30.0
DOWNSCALE_DELAY_S = 600.0
LOOK_BACK_S = 30.0


def decide(snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig) -> FleetDecision:
    """Decide (the contract is `interface.ProvisioningPolicy`)."""
    return decide_each(snapshot, state, config, _rule)


def _rule(
    pool: PoolObservation, settings: PoolConfig, memory: PoolMemory, snapshot: FleetSnapshot
) -> tuple[int, PoolMemory]:
    now_s = snapshot.observed_at_s
    seen = [wish for wish in memory.wishes if wish[0] > now_s - LOOK_BACK_S]
    ongoing = requests_ongoing(pool) + math.ceil(backlog_share(pool, snapshot))
    memory = replace(memory, wishes=(*seen, (now_s, ongoing)))
    mean = sum(count for _, count in memory.wishes) / len(memory.wishes)
    if pool.count(ReplicaStage.READY) == 0:
        # Nothing runs: requests wake one without delay, and otherwise what is asked for stays.
        return (max(1, pool.replicas_wanted) if ongoing else pool.replicas_wanted), memory
    desired = math.ceil(mean / (TARGET_SHARE * settings.max_concurrent_requests))
    return after_delay(
        desired, pool.replicas_wanted, memory, now_s, up_s=UPSCALE_DELAY_S, down_s=DOWNSCALE_DELAY_S
    )


def after_delay(
    desired: int, current: int, memory: PoolMemory, now_s: float, *, up_s: float, down_s: float
) -> tuple[int, PoolMemory]:
    """A wish counts once it has pointed the same way for a while.

    `changed_up_at_s` holds since when the wish has been to grow, `changed_down_at_s` to shrink.
    """
    if desired > current:
        since_s = now_s if memory.changed_up_at_s is None else memory.changed_up_at_s
        done = now_s - since_s >= up_s - 1e-6
        return (desired if done else current), replace(
            memory, changed_up_at_s=None if done else since_s, changed_down_at_s=None
        )
    if desired < current:
        since_s = now_s if memory.changed_down_at_s is None else memory.changed_down_at_s
        done = now_s - since_s >= down_s - 1e-6
        # To zero only from one.
        lowest = desired if current == 1 else max(1, desired)
        return (lowest if done else current), replace(
            memory, changed_down_at_s=None if done else since_s, changed_up_at_s=None
        )
    return current, replace(memory, changed_up_at_s=None, changed_down_at_s=None)
