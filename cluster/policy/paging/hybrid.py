"""The default: plans where traffic is steady, single swaps where it moves, a cache for the rest.

Three decisions at three paces. Every epoch, and when drift is seen, the planned set is computed afresh from
the latest requests with optimistic utilities, so that what was never tried is not forgotten (lock-in).
Between plans every adapter outside the set keeps an account of what it would have gained, every one inside
of what it did gain; when the difference has paid for a page-in, they change places (rent or buy). Slots of
the reserve hold what was loaded last for single requests, by GreedyDual-Size-Frequency.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.config.paging import PagingConfig
from cluster.policy.paging.caches import Gdsf
from cluster.policy.paging.drift import PageHinkley
from cluster.policy.paging.interface import (
    Demand,
    Learned,
    Mask,
    NodeState,
    Numbers,
    Plan,
    PlanReason,
    Rows,
    carried,
)
from cluster.policy.paging.planners import Window, bytes_for_plans
from cluster.policy.paging.submodular import best_set

_PROMOTION = 0.5
"""Share of a page-in that must be paid for before an adapter of the reserve takes a planned one's place: it
is loaded already, but the other one may have to come back."""


_SINCE_DRIFT_MIN = 8
"""Requests that a plan after drift is made for at least."""


class Hybrid:
    """See the module."""

    def __init__(self, config: PagingConfig) -> None:
        self._config = config
        self._reserve = Gdsf()
        self._window = Window(config.window_requests, config.dimension)
        self._drift = PageHinkley(tolerance=config.drift_tolerance, threshold=config.drift_threshold)
        self._planned: Mask = np.zeros(0, dtype=bool)
        self._set: list[int] = []
        self._account: Numbers = np.zeros(0)
        # accounts are scaled: the latest request counts more, instead of all others less
        self._grown = 1.0
        self._due: PlanReason | None = None
        self._since_plan = 0

    def requested(self, node: NodeState, demand: Demand) -> None:
        """Settle the accounts, and see whether there is drift."""
        self._reserve.requested(node, demand)
        if demand.forced:
            return
        self._window.add(demand)
        self._since_plan += 1
        self._grown /= self._config.account_decay
        if self._grown > 1e100:
            self._account /= self._grown
            self._grown = 1.0
        if demand.named:
            missed = self._settle_named(node, demand.row)
        else:
            missed = self._settle_open(node, np.minimum(np.maximum(demand.optimistic, 0.0), 1.0))
        dearest = float(node.page_in_cost.max())
        if dearest > 0 and self._drift.rises(missed / dearest):
            self._due = PlanReason.DRIFT

    def loaded(self, node: NodeState, row: int) -> None:
        """See `Gdsf`."""
        self._reserve.loaded(node, row)

    def evicted(self, node: NodeState, row: int) -> None:
        """See `Gdsf`."""
        self._reserve.evicted(node, row)

    def victim(self, node: NodeState, evictable: Sequence[int], incoming: int) -> int:
        """One of the reserve; if all of it is in use, the planned one with the smallest account."""
        spare = [row for row in evictable if not self._planned[row]]
        if spare:
            return self._reserve.victim(node, spare, incoming)
        return min(evictable, key=lambda row: (self._account[row], row))

    def plan(self, node: NodeState, learned: Learned) -> Plan | None:
        """A set computed afresh when that is due, otherwise a swap that has paid for itself."""
        if self._due is None and self._since_plan >= self._config.epoch_requests:
            self._due = PlanReason.EPOCH
        if self._due is None:
            return self._swap(node)
        return self._afresh(node, learned, self._due)

    def planned(self) -> Rows:
        """The planned set."""
        return np.array(self._set, dtype=np.intp)

    def forced(self, node: NodeState, learned: Learned) -> int | None:
        """None ever: plans are optimistic instead."""
        del node, learned
        return None

    def catalogue_changed(self, origin: Rows) -> None:
        """New weights take their predecessors' place; a plan is due."""
        self._reserve.catalogue_changed(origin)
        self._window.catalogue_changed(origin)
        self._account = carried(self._account, origin, 0.0)
        self._planned = carried(self._planned.astype(np.float64), origin, 0.0) > 0
        self._set = np.flatnonzero(self._planned).tolist()
        self._due = PlanReason.CATALOGUE

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return {
            **self._reserve.arrays(),
            **self._window.arrays(),
            "set": self.planned(),
            "account": self._account / self._grown,
            "drift": self._drift.array(),
            "since_plan": np.array(self._since_plan),
        }

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave."""
        self._reserve.restore(arrays)
        self._window.restore(arrays)
        self._set = [int(row) for row in arrays["set"]]
        self._planned = np.zeros(len(arrays["account"]), dtype=bool)
        self._planned[self._set] = True
        self._account, self._grown = np.array(arrays["account"], dtype=np.float64), 1.0
        self._drift.restore(np.array(arrays["drift"], dtype=np.float64))
        self._since_plan = int(arrays["since_plan"])
        self._due = None

    def _settle_open(self, node: NodeState, utility: Numbers) -> float:
        """Credit what every adapter adds to this request; the most that one outside the set would have."""
        top = second = float((utility - node.page_in_cost).max())
        best = -1
        for row in self._set:
            worth = float(utility[row])
            if worth > top:
                top, second, best = worth, top, row
            elif worth > second:
                second = worth
        if best >= 0:
            self._account[best] += self._grown * (top - second)
        gain = np.maximum(utility - top, 0.0)
        gain[self._set] = 0.0
        self._account += self._grown * gain
        return float(gain.max())

    def _settle_named(self, node: NodeState, row: int) -> float:
        """Only the named adapter saves something: its page-in."""
        cost = float(node.page_in_cost[row])
        self._account[row] += self._grown * cost
        return 0.0 if self._planned[row] else cost

    def _swap(self, node: NodeState) -> Plan | None:
        """The adapter whose account exceeds the smallest planned one's by a page-in takes its place."""
        toll = node.page_in_cost * np.where(node.resident, _PROMOTION, 1.0)
        worth = self._account / self._grown - toll
        worth[self._planned] = -np.inf
        best = int(worth.argmax())
        if not worth[best] > 0:
            return None
        staying = list(self._set)
        given_up = 0.0
        while not self._has_room(node, staying, best):
            movable = [row for row in staying if not node.pinned[row]]
            if not movable:
                return None
            least = min(movable, key=lambda row: (self._account[row], row))
            given_up += float(self._account[least]) / self._grown
            staying.remove(least)
            if worth[best] <= given_up:
                return None
        return self._adopt([*staying, best], float(worth[best]) - given_up, PlanReason.DEMAND)

    def _has_room(self, node: NodeState, staying: Sequence[int], row: int) -> bool:
        if len(staying) + 1 > node.budget.slots - node.budget.reserve_slots:
            return False
        return float(node.bytes[staying].sum() + node.bytes[row]) <= bytes_for_plans(node)

    def _afresh(self, node: NodeState, learned: Learned, reason: PlanReason) -> Plan | None:
        """After drift the set follows from the latest requests only, and accounts begin anew."""
        latest = self._config.window_requests
        if reason is PlanReason.DRIFT:
            latest = max(self._drift.risen_for, _SINCE_DRIFT_MIN)
            self._account[:] = 0.0
            self._drift.reset()
        self._due, self._since_plan = None, 0
        if not self._window.seen:
            return None
        choice = self._window.choice(
            node, learned, alpha=self._config.alpha, horizon=self._config.epoch_requests, latest=latest
        )
        rows, objective = best_set(choice)
        return self._adopt(rows, objective, reason) if sorted(rows) != sorted(self._set) else None

    def _adopt(self, rows: Sequence[int], objective: float, reason: PlanReason) -> Plan:
        self._set = list(rows)
        self._planned[:] = False
        self._planned[self._set] = True
        return Plan(rows=self.planned(), objective=objective, reason=reason)
