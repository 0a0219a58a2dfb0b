"""Controllers that plan: some slots hold what the latest requests need, the reserve holds what just came.

`ftpl` follows the perturbed leader: the adapters with the highest decayed count times cost, plus noise that
is drawn once (Bhattacharjee, Banerjee, Sinha, "Fundamental limits on the regret of online network caching",
2020; low-switching variant: arXiv 2211.16051). `polar` plans every epoch for the set that maximises the value
of the latest requests; `polar_plus` doubles its epochs, forces exploration, and changes its set only for an
improvement that pays (the formulation of arXiv 2604.16583, whose text is public in parts only).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.config.paging import PagingConfig
from cluster.policy.paging.caches import Counts
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
from cluster.policy.paging.submodular import Choice, best_set, fits, value

_UNREACHABLE = -1e9
"""Utility of an adapter for a request that named another one."""


class Window:
    """The latest requests: their vectors, and the adapters they named."""

    def __init__(self, size: int, dimension: int) -> None:
        self._x = np.zeros((size, dimension), dtype=np.float32)
        self._named = np.full(size, -1, dtype=np.intp)
        self.seen = 0

    def add(self, demand: Demand) -> None:
        """One more; the oldest is forgotten."""
        place = self.seen % len(self._x)
        self._x[place] = demand.x
        self._named[place] = demand.row if demand.named else -1
        self.seen += 1

    def clear(self) -> None:
        """Forget all."""
        self.seen = 0

    def choice(
        self, node: NodeState, learned: Learned, *, alpha: float, horizon: float, latest: int
    ) -> Choice:
        """What a plan for the latest requests may choose from.

        Args:
            node: with costs and budget.
            learned: utilities.
            alpha: widths that are added to utilities.
            horizon: requests that a page-in's cost is shared by.
            latest: how many requests at most.
        """
        rows = (np.arange(self.seen - min(self.seen, latest, len(self._x)), self.seen)) % len(self._x)
        mean, width = learned.scored_many(self._x[rows])
        width *= alpha
        width += mean
        utilities = width.clip(0.0, 1.0, out=width)
        floor = (utilities - node.page_in_cost.astype(np.float32)).max(axis=1).astype(np.float64)
        named = self._named[rows]
        asked = np.flatnonzero(named >= 0)
        # a named adapter is served anyway: holding it saves its page-in, no other one does anything
        utilities[asked] = _UNREACHABLE
        utilities[asked, named[asked]] = 0.0
        floor[asked] = -node.page_in_cost[named[asked]]
        return Choice(
            utilities=utilities,
            floor=floor,
            toll=np.where(node.resident, 0.0, node.page_in_cost / horizon),
            bytes=node.bytes,
            slots=node.budget.slots - node.budget.reserve_slots,
            bytes_max=bytes_for_plans(node),
            held=tuple(np.flatnonzero(node.pinned).tolist()),
        )

    def catalogue_changed(self, origin: Rows) -> None:
        """Requests for adapters that are gone are forgotten by name only."""
        into = {int(old): new for new, old in enumerate(origin) if old >= 0}
        self._named = np.array([into.get(int(row), -1) for row in self._named], dtype=np.intp)

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return {"x": self._x, "named": self._named, "window_seen": np.array(self.seen)}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave; another length or dimension is passed over."""
        if arrays["x"].shape == self._x.shape:
            self._x = np.array(arrays["x"], dtype=np.float32)
            self._named = np.array(arrays["named"], dtype=np.intp)
            self.seen = int(arrays["window_seen"])


def bytes_for_plans(node: NodeState) -> float:
    """What plans may fill: the largest adapter must fit into what is left."""
    if node.budget.bytes is None:
        return float("inf")
    return max(node.budget.bytes - float(node.bytes.max(initial=0.0)), 0.0)


class Planner:
    """What controllers that plan share: planned adapters stay, of the others the longest unused leaves."""

    def __init__(self) -> None:
        self._planned: Mask = np.zeros(0, dtype=bool)
        self._used: Numbers = np.zeros(0)
        self._since_plan = 0

    def requested(self, node: NodeState, demand: Demand) -> None:
        """Note the use."""
        self._used[demand.row] = node.seen
        self._since_plan += 1

    def loaded(self, node: NodeState, row: int) -> None:
        """Nothing to note."""

    def evicted(self, node: NodeState, row: int) -> None:
        """Nothing to note."""

    def victim(self, node: NodeState, evictable: Sequence[int], incoming: int) -> int:
        """One that no plan holds, the longest unused first."""
        del node, incoming
        return min(evictable, key=lambda row: (self._planned[row], self._used[row], row))

    def forced(self, node: NodeState, learned: Learned) -> int | None:
        """None ever."""
        del node, learned
        return None

    def planned(self) -> Rows:
        """The planned set."""
        return np.flatnonzero(self._planned)

    def catalogue_changed(self, origin: Rows) -> None:
        """New weights take their predecessors' place in the plan."""
        self._planned = carried(self._planned.astype(np.float64), origin, 0.0) > 0
        self._used = carried(self._used, origin, 0.0)

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return {"planned": self._planned, "used": self._used, "since_plan": np.array(self._since_plan)}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave."""
        self._planned = np.array(arrays["planned"], dtype=bool)
        self._used = np.array(arrays["used"], dtype=np.float64)
        self._since_plan = int(arrays["since_plan"])

    def _adopt(self, rows: Sequence[int], objective: float, reason: PlanReason) -> Plan:
        self._planned[:] = False
        self._planned[list(rows)] = True
        self._since_plan = 0
        return Plan(rows=np.array(rows, dtype=np.intp), objective=objective, reason=reason)


class Ftpl(Planner):
    """Decayed counts times cost, perturbed once, ranked every epoch."""

    def __init__(self, config: PagingConfig) -> None:
        super().__init__()
        self._config = config
        self._counts = Counts(config.count_decay)
        self._noise: Numbers = np.zeros(0)
        self._chance = np.random.default_rng(0)

    def requested(self, node: NodeState, demand: Demand) -> None:
        """One more."""
        super().requested(node, demand)
        self._counts.add(demand.row)

    def plan(self, node: NodeState, learned: Learned) -> Plan | None:
        """At the end of an epoch, the leaders that fit."""
        del learned
        if self._since_plan < self._config.epoch_requests:
            return None
        slots = node.budget.slots - node.budget.reserve_slots
        decay = self._config.count_decay
        effective = min(node.seen, 1 / (1 - decay)) if decay < 1 else node.seen
        noise = self._config.perturbation * np.sqrt(effective / max(slots, 1)) * self._noise
        merit = (self._counts.values() + noise) * node.page_in_cost
        rows = np.flatnonzero(node.pinned).tolist()
        left = bytes_for_plans(node) - node.bytes[rows].sum()
        for row in np.argsort(-merit / node.share, kind="stable").tolist():
            if len(rows) >= slots:
                break
            if row not in rows and node.bytes[row] <= left:
                rows.append(row)
                left -= node.bytes[row]
        return self._adopt(rows, float(merit[rows].sum()), PlanReason.EPOCH)

    def catalogue_changed(self, origin: Rows) -> None:
        """New adapters get noise of their own."""
        super().catalogue_changed(origin)
        self._counts.catalogue_changed(origin)
        drawn = self._chance.normal(size=len(origin))
        self._noise = np.where(origin >= 0, carried(self._noise, origin, 0.0), drawn)

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return {**super().arrays(), **self._counts.arrays(), "noise": self._noise}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave."""
        super().restore(arrays)
        self._counts.restore(arrays)
        self._noise = np.array(arrays["noise"], dtype=np.float64)


class Polar(Planner):
    """The set that maximises the optimistic value of the latest requests, every epoch."""

    def __init__(self, config: PagingConfig) -> None:
        super().__init__()
        self._config = config
        self._window = Window(config.window_requests, config.dimension)

    def requested(self, node: NodeState, demand: Demand) -> None:
        """One more context."""
        super().requested(node, demand)
        if not demand.forced:
            self._window.add(demand)

    def plan(self, node: NodeState, learned: Learned) -> Plan | None:
        """At the end of an epoch."""
        if self._since_plan < self._config.epoch_requests or not self._window.seen:
            return None
        choice = self._window.choice(
            node,
            learned,
            alpha=self._config.alpha,
            horizon=self._config.epoch_requests,
            latest=self._config.window_requests,
        )
        rows, objective = best_set(choice)
        return self._adopt(rows, objective, PlanReason.EPOCH)

    def catalogue_changed(self, origin: Rows) -> None:
        """See `Window.catalogue_changed`."""
        super().catalogue_changed(origin)
        self._window.catalogue_changed(origin)

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return {**super().arrays(), **self._window.arrays()}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave."""
        super().restore(arrays)
        self._window.restore(arrays)


class PolarPlus(Polar):
    """Doubling epochs; each begins by bringing every adapter to a number of answers that grows with it.

    Exploration is spread over the epoch, in batches for one adapter, so that a page-in serves several.
    """

    _BATCH = 8

    def __init__(self, config: PagingConfig) -> None:
        super().__init__(config)
        self._epoch = config.epoch_requests
        self._credit = 0.0
        self._exploring = -1
        self._left = 0

    def requested(self, node: NodeState, demand: Demand) -> None:
        """Exploration earns its next batch with every request."""
        super().requested(node, demand)
        if demand.forced:
            self._left -= 1
            return
        self._credit += self._config.forced_share

    def forced(self, node: NodeState, learned: Learned) -> int | None:
        """The adapter with the fewest answers, while it has fewer than the epoch asks for."""
        if self._left > 0:
            return self._exploring
        enough = np.ceil(self._config.dimension * np.sqrt(self._epoch / max(len(node.keys), 1)))
        lacking = enough - learned.count
        # the quota may not take more than its share of the epoch, and is spread over it
        total = np.maximum(lacking, 0.0).sum()
        pace = (
            min(1.0, total / (self._config.forced_share * self._epoch)) if self._config.forced_share else 0.0
        )
        if self._credit * pace < self._BATCH or total <= 0:
            return None
        self._exploring = int(lacking.argmax())
        self._left = int(min(self._BATCH, lacking[self._exploring]))
        self._credit = 0.0
        return self._exploring

    def plan(self, node: NodeState, learned: Learned) -> Plan | None:
        """At the end of an epoch the new set, if it is better by more than its page-ins and the doubt."""
        if self._since_plan < self._epoch or not self._window.seen:
            return None
        following = min(2 * self._epoch, self._config.epoch_requests_max)
        choice = self._window.choice(
            node, learned, alpha=0.0, horizon=following, latest=self._config.window_requests
        )
        rows, objective = best_set(choice)
        now = np.flatnonzero(self._planned | node.pinned).tolist()
        doubt = float(node.page_in_cost.max()) / np.sqrt(2 * self._epoch)
        if now and fits(choice, now) and objective - value(choice, now) <= doubt:
            rows, objective = now, value(choice, now)
        self._epoch = following
        return self._adopt(rows, objective, PlanReason.EPOCH)

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return {**super().arrays(), "epoch": np.array(self._epoch), "credit": np.array(self._credit)}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave; a batch that was begun is not resumed."""
        super().restore(arrays)
        self._epoch = int(arrays["epoch"])
        self._credit = float(np.asarray(arrays["credit"], dtype=np.float64))

    def catalogue_changed(self, origin: Rows) -> None:
        """A batch that was begun is not resumed: its row may be another adapter's."""
        super().catalogue_changed(origin)
        self._exploring, self._left = -1, 0
