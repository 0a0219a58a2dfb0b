"""Whose request goes next: priority classes, and weighted fairness between the tenants of a class.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) over tenants: each has a virtual time up to
which it was served, which grows by cost over weight with every request, and the one that is behind goes
next. A tenant that was away starts at the present, so it neither saves up service nor pays for having been
alone. Cost is in tokens, because requests differ a hundredfold (as in the virtual token counter of Sheng
et al., OSDI 2024). Waiting requests carry no tags: one that gives up costs its tenant nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.config.tenants import FairnessConfig

_FORGOTTEN_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What of a tenant matters for order."""

    tenant: str = ""
    rank: int = 0
    """Of its class; 0 goes first."""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first in a tenant's line."""

    flow: Flow
    waits_since_s: float


class FairOrder:
    """Virtual time of one model's queue."""

    def __init__(self) -> None:
        """Nobody was served yet."""
        self._now = 0.0
        self._served_to: dict[str, float] = {}

    def order(self, heads: Iterable[Head], *, now_s: float, config: FairnessConfig) -> list[Head]:
        """The heads of all lines in the order in which they are to be tried."""

        def place(head: Head) -> tuple[int, float, float]:
            starved = now_s - head.waits_since_s >= config.starvation_s
            # Those who have waited too long are first among themselves, the oldest before all.
            if starved:
                return -1, head.waits_since_s, 0.0
            return head.flow.rank, self._start(head.flow.tenant), head.waits_since_s

        return sorted(heads, key=place)

    def served(self, flow: Flow, cost_tokens: float) -> None:
        """A request of a tenant was let in."""
        start = self._start(flow.tenant)
        self._now = max(self._now, start)
        self._served_to[flow.tenant] = start + max(1.0, cost_tokens) / flow.weight
        if len(self._served_to) > _FORGOTTEN_MAX:
            self._served_to = {name: end for name, end in self._served_to.items() if end > self._now}

    def _start(self, tenant: str) -> float:
        return max(self._now, self._served_to.get(tenant, 0.0))


def may_take(share: float, *, holds: int, held_by_all: int, places: int, config: FairnessConfig) -> bool:
    """Whether a tenant may take one more place of a model.

    Up to its share of the places always; beyond it only while the reserve stays free for others.

    Args:
        share: its weight's part of the weights of all tenants that ask at present; 1 if it is alone.
        holds: places that it holds.
        held_by_all: places that all tenants hold.
        places: how many there are.
        config: the reserve.
    """
    if holds + 1 <= share * places:
        return True
    return held_by_all + 1 <= max(1, int((1.0 - config.reserve_share) * places))


def to_drop(waiting: dict[str, int], tenant: str) -> str:
    """Whose newest request gives way when the queue is full: the longest line's, or the newcomer's own.

    Args:
        waiting: requests that wait, by tenant.
        tenant: of the request that has just come.
    """
    longest = max(waiting, key=lambda name: waiting[name], default=tenant)
    return longest if waiting.get(longest, 0) > waiting.get(tenant, 0) + 1 else tenant
