"""Which replicas may be chosen at all; asked by replica routing and by the choice of path.

A filter before any score: an unhealthy or full replica must not distort the comparison of the others.
"""

from cluster.entities.pool import ReplicaCandidate, ReplicaPhase


def is_ready(replica: ReplicaCandidate) -> bool:
    """Whether it takes new requests in principle; a draining replica only finishes what it has."""
    return replica.phase is ReplicaPhase.READY


def has_room(replica: ReplicaCandidate) -> bool:
    """Whether it is below its limit of requests in flight."""
    return replica.requests_in_flight < replica.max_concurrent_requests


def is_put_aside(replica: ReplicaCandidate, *, now_s: float) -> bool:
    """Whether it failed so recently that it is not to be chosen yet."""
    return replica.put_aside_until_s > now_s


def is_usable(replica: ReplicaCandidate, *, now_s: float) -> bool:
    """Whether a request may be sent there at this instant."""
    return is_ready(replica) and has_room(replica) and not is_put_aside(replica, now_s=now_s)
