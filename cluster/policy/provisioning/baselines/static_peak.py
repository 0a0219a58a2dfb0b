"""Enough for the peak, always: what most clusters do. The size is `replicas.initial`, or else the maximum."""

from cluster.config.pools import PoolConfig
from cluster.config.root import TidemillConfig
from cluster.entities.fleet import FleetDecision, FleetSnapshot, PoolMemory, PoolObservation, ProvisionerState
from cluster.policy.provisioning.baselines.per_pool import decide_each


def decide(snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig) -> FleetDecision:
    """Decide (the contract is `interface.ProvisioningPolicy`)."""
    return decide_each(snapshot, state, config, _rule)


def _rule(
    pool: PoolObservation, settings: PoolConfig, memory: PoolMemory, snapshot: FleetSnapshot
) -> tuple[int, PoolMemory]:
    del pool, snapshot
    initial = settings.replicas.initial
    return (settings.replicas.max if initial is None else initial), memory
