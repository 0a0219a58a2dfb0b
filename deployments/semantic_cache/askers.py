"""Which routers are alive, so that nobody waits for an answer that a dead one was computing.

Every request of a router is a sign of life, and between them it sends one every two seconds.
"""

from collections.abc import Callable

SILENT_S = 6.0
"""Three signs of life missed."""
_ROUTERS_MAX = 1000


class Askers:
    """When each router was last heard of."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Nobody yet.

        Args:
            now: seconds on a clock that never goes backwards.
        """
        self._now = now
        self._heard_at_s: dict[str, float] = {}

    def heard(self, router: str) -> bool:
        """A sign of life; whether somebody has fallen silent since the last one."""
        now_s = self._now()
        silent = [name for name, at_s in self._heard_at_s.items() if now_s - at_s > SILENT_S]
        for name in silent:
            del self._heard_at_s[name]
        if router and len(self._heard_at_s) < _ROUTERS_MAX:
            self._heard_at_s[router] = now_s
        return bool(silent)

    def silent(self, router: str) -> bool:
        """Whether a router that has said its name is heard no more."""
        return bool(router) and router not in self._heard_at_s
