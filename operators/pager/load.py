"""How much each adapter is asked for lately, from the sums that routers tell."""

import math
from collections.abc import Iterable

from deployments.messages import DemandReport


class AdapterLoad:
    """Requests per second by adapter, the newest counting most."""

    def __init__(self, *, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._sums: dict[str, dict[str, int]] = {}
        self._at_s: float | None = None
        self._rates: dict[str, float] = {}

    def take(self, reports: Iterable[DemandReport], *, now_s: float) -> None:
        """Take what all routers have counted since they started."""
        asked: dict[str, int] = {}
        sums: dict[str, dict[str, int]] = {}
        for report in reports:
            before = self._sums.get(report.router_id)
            sums[report.router_id] = dict(report.adapters)
            for name, count in report.adapters.items():
                # Of a router that was not known, what it counted before is of no known time.
                new = 0 if before is None else count - before.get(name, 0)
                asked[name] = asked.get(name, 0) + max(0, new)
        elapsed_s = 0.0 if self._at_s is None else now_s - self._at_s
        self._sums, self._at_s = sums, now_s
        if elapsed_s <= 0:
            return
        stays = math.exp2(-elapsed_s / self._half_life_s)
        names = asked.keys() | self._rates.keys()
        rates = {
            name: stays * self._rates.get(name, 0.0) + (1 - stays) * asked.get(name, 0) / elapsed_s
            for name in names
        }
        # Once in a hundred half-lives is nothing.
        least = 0.01 / self._half_life_s
        self._rates = {name: rate for name, rate in rates.items() if rate >= least}

    def per_s(self, adapter: str) -> float:
        """Of one adapter."""
        return self._rates.get(adapter, 0.0)
