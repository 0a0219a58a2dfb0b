"""How long KV cache takes from one replica to another."""

from cluster.entities.performance import ReplicaPerformance


def kv_transfer_s(performance: ReplicaPerformance, tokens: int) -> float:
    """Seconds to hand over the KV cache of some tokens: latency plus bytes over the link's rate.

    Args:
        performance: of the replica that hands over.
        tokens: computed prompt tokens.
    """
    bytes_ = tokens * performance.kv_token_bytes
    return performance.transfer_latency_s + bytes_ / performance.transfer_bytes_per_s
