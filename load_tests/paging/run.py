"""One policy in one world: the live pager's own functions; page-ins cost their price and take no time."""

import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from cluster.config.paging import PagingConfig
from cluster.policy.paging.core import PagerCore
from cluster.policy.paging.interface import Budget, PagedAdapter
from load_tests.paging.world import Case, Numbers, World

_TIMED_EVERY = 7
"""Decisions between two timed ones: reading the clock costs, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    net: Numbers
    """Per request: true utility less the prices of page-ins, planned ones included."""
    page_ins: int
    forced: int
    decision_s: Numbers
    """Of a sample of requests: choosing the adapter, room for it, and the plan."""


def run(case: Case, found: World, config: PagingConfig) -> Outcome:
    """Serve every request of the world."""
    return _Run(case, found, config).outcome()


class _Run:
    def __init__(self, case: Case, found: World, config: PagingConfig) -> None:
        self._case, self._found, self._config = case, found, config
        budget = Budget(slots=case.planned_slots + 1, reserve_slots=1)
        self._core = PagerCore(config, budget, source="benchmark")
        self._seconds = found.price / config.utility_per_s
        self._keys = [f"{row:03d}" for row in range(len(found.price))]
        self._net = np.zeros(len(found.x))
        self._page_ins = 0

    def outcome(self) -> Outcome:
        case, found = self._case, self._found
        arrivals = set(found.arrives.tolist())
        pending: deque[tuple[int, int]] = deque()
        timed: list[float] = []
        forced = 0
        for t in range(len(found.x)):
            if t in arrivals:
                self._catalogue(t)
            while pending and pending[0][0] <= t - case.feedback_delay_requests:
                self._observe(*pending.popleft())
            began = time.perf_counter()
            row, explored = self._serve(t)
            self._follow_plan(t)
            if t % _TIMED_EVERY == 0:
                timed.append(time.perf_counter() - began)
            forced += explored
            if found.judged[t]:
                pending.append((t, row))
        return Outcome(net=self._net, page_ins=self._page_ins, forced=forced, decision_s=np.array(timed))

    def _catalogue(self, t: int) -> None:
        found = self._found
        self._core.set_catalogue(
            PagedAdapter(key=self._keys[row], bytes=int(found.bytes[row]))
            for row in np.flatnonzero(found.arrives <= t)
        )

    def _serve(self, t: int) -> tuple[int, bool]:
        core, found, x = self._core, self._found, self._found.x[t]
        scored = core.statistics.scored(x)
        row, explored = int(found.named[t]), False
        named = row >= 0
        if not named:
            decision = core.choose(x, draw=found.draws[t], scored=scored)
            row, explored = decision.row, decision.explored
        core.requested(self._keys[row], x, named=named, forced=explored, scored=scored)
        self._net[t] += found.utility[t, row]
        self._make_resident(t, row)
        return row, explored

    def _make_resident(self, t: int, row: int) -> None:
        core, key = self._core, self._keys[row]
        if core.holds(key):
            return
        leaving = core.room_for(key)
        if leaving is None:
            raise RuntimeError(f"no room for {key}")
        for victim in leaving:
            core.evicted(victim)
        self._load(t, row)

    def _load(self, t: int, row: int) -> None:
        self._core.loaded(self._keys[row])
        self._core.paged_in(self._keys[row], "disk", float(self._seconds[row]))
        self._page_ins += 1
        self._net[t] -= self._found.price[row]

    def _follow_plan(self, t: int) -> None:
        plan = self._core.plan()
        if plan is None:
            return
        for key in plan.drop:
            self._core.evicted(key)
        for key in plan.load:
            self._load(t, self._core.row(key))

    def _observe(self, t: int, row: int) -> None:
        found = self._found
        utility = min(max(float(found.utility[t, row] + found.noise[t]), 0.0), 1.0)
        self._core.observe(self._keys[row], found.x[t], utility)
