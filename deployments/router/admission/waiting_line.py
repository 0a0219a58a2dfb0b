"""Who waits in the admission queue and who holds places, by model and tenant."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Any

from cluster.config.tenants import FairnessConfig
from cluster.policy.tenancy.fair_order import FairOrder, Flow, Head, may_take, to_drop


@dataclass(slots=True, eq=False, kw_only=True)
class Waiter:
    """One request that wants a place."""

    key: str
    """What it wants: the model."""
    flow: Flow
    cost_tokens: float
    attempt: Callable[[], Any]
    granted: asyncio.Future[Any]
    waits_since_s: float
    wants: Hashable = None
    """What of it, where not everything would do: who wants the same gets something when this one does."""


Line = dict[Hashable, dict[int, Waiter]]
"""Who waits of one tenant for one model, by what of it they want; each in the order in which they came."""


class WaitingLines:
    """One line for every model and tenant."""

    def __init__(
        self, fairness: FairnessConfig, *, flow_of: Callable[[str], Flow], places_of: Callable[[str], int]
    ) -> None:
        """Start empty; see `AdmissionQueue`."""
        self._fairness = fairness
        self.flow_of = flow_of
        self._places_of = places_of
        self._lines: dict[str, dict[str, Line]] = {}
        self._orders: dict[str, FairOrder] = {}
        self._held: Counter[tuple[str, str]] = Counter()
        self._held_by_all: Counter[str] = Counter()
        self._by_tenant: Counter[str] = Counter()
        self._asked: dict[str, tuple[float, float]] = {}
        """Of every tenant that asks at present: when it last did, and its weight."""
        self._weights = 0.0
        self.waiting = 0

    def by_key(self) -> dict[str, int]:
        """Waiting requests by model."""
        return {
            key: sum(len(same) for line in lines.values() for same in line.values())
            for key, lines in self._lines.items()
        }

    def keys_waiting(self) -> list[str]:
        """Models that somebody waits for."""
        return list(self._lines)

    def has(self, key: str, tenant: str, wants: Hashable) -> bool:
        """Whether somebody of the tenant waits for the same."""
        return wants in self._lines.get(key, {}).get(tenant, ())

    def asks(self, flow: Flow, now_s: float) -> None:
        """A tenant wants something: from now on it has its share."""
        new = flow.tenant not in self._asked
        self._asked[flow.tenant] = (now_s, flow.weight)
        if new:
            self._weights += flow.weight

    def _share(self, flow: Flow, now_s: float) -> float:
        """A tenant's part of the places; 1 if nobody else has asked lately."""
        if len(self._asked) > 1:
            silent_s = now_s - self._fairness.active_s
            for tenant in [name for name, (at_s, _) in self._asked.items() if at_s < silent_s]:
                self._weights -= self._asked.pop(tenant)[1]
        return 1.0 if len(self._asked) <= 1 else flow.weight / self._weights

    def add(self, waiter: Waiter) -> None:
        """Put a request at the end of its line."""
        line = self._lines.setdefault(waiter.key, {}).setdefault(waiter.flow.tenant, {})
        line.setdefault(waiter.wants, {})[id(waiter)] = waiter
        self.waiting += 1
        self._by_tenant[waiter.flow.tenant] += 1

    def remove(self, waiter: Waiter) -> None:
        """Take a request out of its line, if it is there."""
        key, tenant = waiter.key, waiter.flow.tenant
        line = self._lines.get(key, {}).get(tenant, {})
        same = line.get(waiter.wants, {})
        if same.pop(id(waiter), None) is None:
            return
        self.waiting -= 1
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]
        if not same:
            del line[waiter.wants]
        if not line:
            del self._lines[key][tenant]
            if not self._lines[key]:
                del self._lines[key]

    def next(
        self, key: str, refused: Collection[str], futile: Collection[Hashable], *, now_s: float
    ) -> Waiter | None:
        """The request that is to be tried next, tenants that were refused and futile wants apart."""
        firsts: dict[str, Waiter] = {}
        for tenant, line in self._lines.get(key, {}).items():
            heads = [next(iter(same.values())) for wants, same in line.items() if wants not in futile]
            if heads and tenant not in refused:
                firsts[tenant] = min(heads, key=lambda waiter: waiter.waits_since_s)
        if len(firsts) < 2:
            return next(iter(firsts.values()), None)
        turns = [Head(flow=first.flow, waits_since_s=first.waits_since_s) for first in firsts.values()]
        order = self._orders.setdefault(key, FairOrder())
        return firsts[order.order(turns, now_s=now_s, config=self._fairness)[0].flow.tenant]

    def gives_way(self, tenant: str) -> Waiter | None:
        """The request that is dropped for one of the tenant; None if the newcomer itself is too much."""
        tenant = self.flow_of(tenant).tenant
        dropped = to_drop(self._by_tenant, tenant)
        if dropped == tenant:
            return None
        lines = [lines[dropped] for lines in self._lines.values() if dropped in lines]
        last = (next(reversed(same.values())) for line in lines for same in line.values())
        return max(last, key=lambda waiter: waiter.waits_since_s)

    def may_take(self, waiter: Waiter, now_s: float) -> bool:
        """Whether the tenant may hold one more place of the model."""
        share = self._share(waiter.flow, now_s)
        places = self._places_of(waiter.key) if share < 1.0 else 0
        if not places:
            return True
        return may_take(
            share,
            holds=self._held[waiter.key, waiter.flow.tenant],
            held_by_all=self._held_by_all[waiter.key],
            places=places,
            config=self._fairness,
        )

    def entered(self, waiter: Waiter) -> None:
        """A request got its place."""
        self._orders.setdefault(waiter.key, FairOrder()).served(waiter.flow, waiter.cost_tokens)
        self._held[waiter.key, waiter.flow.tenant] += 1
        self._held_by_all[waiter.key] += 1

    def left(self, key: str, tenant: str) -> None:
        """A request gave its place back."""
        held = (key, self.flow_of(tenant).tenant)
        self._held[held] -= 1
        self._held_by_all[key] -= 1
        if not self._held[held]:
            del self._held[held]
