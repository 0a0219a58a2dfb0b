"""Which replicas leave first: those with the least work, so that the fewest streams hold a drain up."""

from cluster.entities.fleet import PoolObservation, ReplicaObservation, ReplicaStage
from cluster.entities.pool import ReplicaId


def drain_order(pool: PoolObservation) -> tuple[ReplicaId, ...]:
    """Replicas in the order in which they should go: those that are not ready yet, then least work first.

    Args:
        pool: the pool; replicas that are already draining are not named again.
    """
    staying = [replica for replica in pool.replicas if replica.stage is not ReplicaStage.DRAINING]
    return tuple(replica.replica_id for replica in sorted(staying, key=_work))


def _work(replica: ReplicaObservation) -> tuple[bool, int, float, float, str]:
    ready = replica.stage is ReplicaStage.READY
    requests = replica.requests_running + replica.requests_waiting
    # Of equals the youngest goes: the older one's caches are warmer.
    return (ready, requests, replica.kv_cache_usage, -replica.since_s, replica.replica_id)
