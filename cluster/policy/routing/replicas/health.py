"""How long a replica that failed is left alone.

Requests notice a dead engine seconds before any health check does. Putting the replica aside at the first
failure, for longer each time, keeps retries from meeting the same failure again; the jitter keeps several
routers from coming back at the same instant.
"""

from dataclasses import dataclass

from cluster.config.routing import ReplicaRoutingConfig

_DOUBLINGS_MAX = 60
"""Keeps the power finite; any real upper bound is reached long before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaHealth:
    """What a router remembers of a replica's failures."""

    failures: int = 0
    """Failures in a row, those of one incident counted once."""
    put_aside_until_s: float = 0.0
    """Not to be chosen before this instant."""


def after_failure(
    health: ReplicaHealth, config: ReplicaRoutingConfig, *, now_s: float, draw: float
) -> ReplicaHealth:
    """Put the replica aside: twice as long as the last time, up to `put_aside_max_s`, give or take a quarter.

    A failure while it is put aside changes nothing: when an engine dies, all its requests fail at once, and
    that is one failure and not as many as there were requests.

    Args:
        health: what was known before.
        config: first and longest time aside.
        now_s: the instant of the failure.
        draw: a number in [0, 1) for the jitter.

    Raises:
        ValueError: the draw lies outside [0, 1).
    """
    if not 0.0 <= draw < 1.0:
        raise ValueError(f"draw must lie in [0, 1), not {draw!r}")
    if health.put_aside_until_s > now_s:
        return health
    doubled_s = config.put_aside_first_s * 2.0 ** min(health.failures, _DOUBLINGS_MAX)
    aside_s = min(doubled_s, config.put_aside_max_s) * (0.75 + 0.5 * draw)
    return ReplicaHealth(failures=health.failures + 1, put_aside_until_s=now_s + aside_s)


def after_success(health: ReplicaHealth) -> ReplicaHealth:
    """A replica that answered is as good as one that never failed."""
    return health if health == ReplicaHealth() else ReplicaHealth()
