"""What routers tell each other through the directory: their requests in flight and what was computed where.

With its own counts alone, each of several routers would see a fraction of the load and all would choose the
same idle replica. A router brings its own state and takes the others' along in one call, several times a
second and never while a request waits for it.
"""

from collections import deque
from dataclasses import dataclass, field

from cluster.entities.pool import ReplicaId
from deployments.messages import ReplicaLoad, RouterShare

ROUTERS_MAX = 1000
"""More is a malfunction, and new ones are not heard."""
SHARE_EXPIRY_S = 5.0
"""A router that has not come for so long is taken for dead: its streams broke with it."""
INBOX_MAX = 4096
"""Computed prompts kept for one router; the oldest go first."""


@dataclass(slots=True)
class _Known:
    loads: dict[ReplicaId, ReplicaLoad]
    seen_at_s: float
    inbox: deque[tuple[ReplicaId, tuple[int, ...]]] = field(default_factory=lambda: deque(maxlen=INBOX_MAX))


class RouterExchange:
    """The last share of every router; single-threaded, and every method takes the time."""

    def __init__(self) -> None:
        self._routers: dict[str, _Known] = {}

    def swap(self, router: str, share: RouterShare, *, now_s: float) -> RouterShare:
        """Take a router's share; what all others have in flight, and what they found since its last call."""
        for silent in [r for r, k in self._routers.items() if now_s - k.seen_at_s > SHARE_EXPIRY_S]:
            del self._routers[silent]
        known = self._routers.get(router)
        if known is None:
            if len(self._routers) >= ROUTERS_MAX:
                return RouterShare()
            known = self._routers[router] = _Known(share.loads, now_s)
        known.loads, known.seen_at_s = share.loads, now_s
        loads: dict[ReplicaId, ReplicaLoad] = {}
        for name, other in self._routers.items():
            if name == router:
                continue
            other.inbox.extend(share.computed)
            for replica, load in other.loads.items():
                loads[replica] = loads.get(replica, ReplicaLoad()) + load
        computed = tuple(known.inbox)
        known.inbox.clear()
        return RouterShare(loads=loads, computed=computed)

    def forget(self, router: str) -> None:
        """A router is gone; unknown ones are fine."""
        self._routers.pop(router, None)
