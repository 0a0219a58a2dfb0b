"""What a replica says of itself, where a test minds only part of it."""

from dataclasses import replace
from typing import Any

from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaReport, Role

_REPORT = ReplicaReport(
    replica_id=ReplicaId("a"),
    pool=PoolName("decode"),
    role=Role.DECODE,
    model="sim",
    gpu_type="cpu",
    url="http://a",
    phase=ReplicaPhase.READY,
    observed_at_s=0.0,
    started_at_s=0.0,
)


def replica_report(name: str = "a", **changes: Any) -> ReplicaReport:
    """A ready decode replica's, with some fields changed."""
    return replace(_REPORT, replica_id=ReplicaId(name), **changes)
