"""Since when replicas are in their stage."""

from collections.abc import Iterable

from cluster.entities.pool import ReplicaPhase, ReplicaReport


class DrainsSeen:
    """Remembers when each draining replica was first seen draining; of the other stages replicas tell it."""

    def __init__(self) -> None:
        """Start from nothing."""
        self._since_s: dict[str, float] = {}

    def update(self, reports: Iterable[ReplicaReport], now_s: float) -> dict[str, float]:
        """Take in one look.

        Args:
            reports: what replicas said last.
            now_s: the instant of the look, Unix time.

        Returns:
            Instants by replica; only of those that drain.
        """
        self._since_s = {
            report.replica_id: self._since_s.get(report.replica_id, now_s)
            for report in reports
            if report.phase is ReplicaPhase.DRAINING
        }
        return self._since_s
