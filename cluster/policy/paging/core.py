"""The pager of one node without its engine: catalogue, residency, statistics, prices and controller together.

The live pager and the benchmark both drive it: they tell what happens (`requested`, `loaded`, `evicted`,
`paged_in`, `observe`) and ask what to do (`choose`, `room_for`, `plan`). It needs nobody else: a node goes on
deciding and learning while the coordinator is away.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.config.paging import PagingConfig
from cluster.policy.paging.contributions import Contribution
from cluster.policy.paging.interface import (
    Budget,
    Demand,
    Mask,
    NodeState,
    Numbers,
    PagedAdapter,
    Plan,
    PlanReason,
    ResidencyPlan,
)
from cluster.policy.paging.page_in_times import TIERS, PageInTimes
from cluster.policy.paging.policies import controller
from cluster.policy.paging.routers import RouteDecision, route
from cluster.policy.paging.statistics import Estimates, Scored, Statistics


class PagerCore:
    """Owned by one thread of control; every method returns at once."""

    def __init__(self, config: PagingConfig, budget: Budget, *, source: str) -> None:
        """Knows no adapter yet.

        Args:
            config: policies and learning.
            budget: what the node can hold.
            source: name of this node's observations. A node that lost its state takes a new one, or is given
                back what it told before it observes anything.
        """
        self._config = config
        self._node = NodeState(budget)
        self._adapters: dict[str, PagedAdapter] = {}
        self._controller = controller(config)
        self._tier = np.zeros(0, dtype=np.intp)
        self._absent_due = False
        """Pinned or planned adapters may be missing, without the controller's knowing."""
        self.times = PageInTimes(config)
        self.statistics = Statistics(
            dimension=config.dimension,
            regularisation=config.regularisation,
            inherited=config.inherited,
            source=source,
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """Of all adapters of the catalogue, in the order of rows."""
        return self._node.keys

    @property
    def resident(self) -> tuple[str, ...]:
        """Adapters in the engine."""
        return tuple(self._node.keys[row] for row in np.flatnonzero(self._node.resident))

    def holds(self, key: str) -> bool:
        """Whether the engine has this adapter."""
        return bool(self._node.resident[self._node.rows[key]])

    def row(self, key: str) -> int:
        """Of an adapter.

        Raises:
            KeyError: the catalogue has no such adapter.
        """
        return self._node.rows[key]

    # What the operator changes

    def set_catalogue(self, adapters: Iterable[PagedAdapter]) -> None:
        """All adapters that there are; of the others everything is forgotten.

        New weights (`replaces`) inherit the popularity of the old ones and a share of what is known of their
        utility. Page-in times go with bytes, so they are inherited too.

        Raises:
            ValueError: a key occurs twice, or a resident adapter is missing (evict it first).
        """
        listed = tuple(adapters)
        catalogue = {adapter.key: adapter for adapter in listed}
        if listed == tuple(self._adapters.values()):
            return
        if len(catalogue) < len(listed):
            raise ValueError("an adapter occurs twice in the catalogue")
        missing = [key for key in self.resident if key not in catalogue]
        if missing:
            raise ValueError(f"still resident: {', '.join(missing)}")
        old, resident = self._node.rows, set(self.resident)
        origin = np.array([old.get(key, -1) for key in catalogue], dtype=np.intp)
        from_old = np.array([old.get(adapter.replaces, -1) for adapter in catalogue.values()], dtype=np.intp)
        replaced = (origin < 0) & (from_old >= 0)
        origin = np.where(replaced, from_old, origin)
        node = self._node
        self._adapters = catalogue
        node.keys = tuple(catalogue)
        node.rows = {key: row for row, key in enumerate(node.keys)}
        node.bytes = np.array([adapter.bytes for adapter in catalogue.values()], dtype=np.float64)
        node.pinned = np.array([adapter.pinned for adapter in catalogue.values()], dtype=bool)
        node.resident = np.array([key in resident for key in node.keys], dtype=bool)
        prior = np.array([adapter.prior_utility for adapter in catalogue.values()], dtype=np.float64)
        tier = np.full(len(origin), TIERS.index("disk"), dtype=np.intp)
        tier[~replaced & (origin >= 0)] = self._tier[origin[~replaced & (origin >= 0)]]
        self._tier = tier
        self.statistics.catalogue_changed(node.keys, prior, origin, replaced)
        self.times.catalogue_changed(node.bytes, origin)
        self._controller.catalogue_changed(origin)
        self._price_all()
        self._share()
        self._absent_due = True

    def reconcile(self, resident: Collection[str]) -> None:
        """What the engine really holds, for instance after a restart; unknown keys are a KeyError."""
        rows = [self._node.rows[key] for key in resident]
        self._node.resident[:] = False
        self._node.resident[rows] = True

    # What happens

    def set_tier(self, key: str, tier: str) -> None:
        """Note from where a page-in of this adapter would begin."""
        row = self._node.rows[key]
        self._tier[row] = TIERS.index(tier)
        self._price(row)

    def requested(
        self,
        key: str,
        x: Numbers,
        *,
        named: bool = False,
        forced: bool = False,
        scored: Scored | None = None,
    ) -> None:
        """A request for this adapter arrived, before anything is loaded for it.

        Args:
            key: the adapter.
            x: the vector that stands for the request; zeros if nothing is known of it (then it is `named`).
            named: the request asked for this adapter and no other.
            forced: it got this adapter so that something is learnt.
            scored: utilities for `x`, where the caller has them.
        """
        node = self._node
        node.seen += 1
        found = scored or self.statistics.scored(x)
        demand = Demand(
            row=node.rows[key],
            x=x,
            optimistic=found.mean + self._config.alpha * found.width,
            named=named,
            forced=forced,
        )
        self._controller.requested(node, demand)
        if not named:
            self.statistics.chosen(demand.row, x)

    def loaded(self, key: str) -> None:
        """An adapter is in the engine."""
        row = self._node.rows[key]
        self._node.resident[row] = True
        self._controller.loaded(self._node, row)

    def evicted(self, key: str) -> None:
        """An adapter left the engine."""
        row = self._node.rows[key]
        self._node.resident[row] = False
        self._controller.evicted(self._node, row)

    def paged_in(self, key: str, tier: str, seconds: float, *, stall_s: float = 0.0) -> None:
        """A page-in from this tier took so long, and stopped each running stream for `stall_s`."""
        row = self._node.rows[key]
        self.times.observe(row, tier, seconds, stall_s=stall_s)
        self._price_all()

    def observe(self, key: str, x: Numbers, utility: float, weight: float = 1.0) -> None:
        """How good an answer of this adapter was, 0..1; the caller sees to it that none counts twice."""
        self.statistics.observe(self._node.rows[key], x, utility, weight)

    # What to do

    def choose(
        self,
        x: Numbers,
        *,
        draw: float,
        running: float = 0.0,
        loading: Collection[str] = (),
        allowed: Mask | None = None,
        scored: Scored | None = None,
    ) -> RouteDecision:
        """The adapter for a request that leaves it open (rows as in `keys`)."""
        forced = self._controller.forced(self._node, self.statistics)
        found = scored or self.statistics.scored(x)
        prices = self.prices(running, loading)
        return route(found, prices, self._config, draw=draw, allowed=allowed, forced=forced)

    def forced(self) -> str | None:
        """The adapter that the next open request should go to for the sake of learning, if any."""
        row = self._controller.forced(self._node, self.statistics)
        return None if row is None else self._node.keys[row]

    def prices(self, running: float = 0.0, loading: Collection[str] = ()) -> Numbers:
        """Utility that each adapter's page-in would cost while so many streams run.

        It is 0 for residents and for what is being loaded anyway.
        """
        cost = self._node.page_in_cost
        if running:
            cost = cost + self._config.utility_per_s * running * self.times.stall_s
        prices = cost * ~self._node.resident
        if loading:
            prices[[self._node.rows[key] for key in loading]] = 0.0
        return prices

    def room_for(self, key: str, busy: Collection[str] = ()) -> tuple[str, ...] | None:
        """Residents that must leave before this adapter can be loaded, in order; () if there is room.

        None: it cannot be loaded while these are busy (in use or being loaded), or ever.
        """
        node, incoming = self._node, self._node.rows[key]
        if node.resident[incoming]:
            return ()
        held: list[int] = np.flatnonzero(node.resident).tolist()
        if self._fits(held, incoming):
            return ()
        taken = {node.rows[other] for other in busy}
        evictable = [row for row in held if row not in taken and not node.pinned[row]]
        leaving: list[int] = []
        while not self._fits(held, incoming):
            if not evictable:
                return None
            victim = self._controller.victim(node, evictable, incoming)
            leaving.append(victim)
            evictable.remove(victim)
            held.remove(victim)
        return tuple(node.keys[row] for row in leaving)

    def plan(self) -> ResidencyPlan | None:
        """What should be resident from now on; None: nothing new. Ask after every request."""
        found = self._controller.plan(self._node, self.statistics)
        if found is None and self._absent_due:
            rows = np.array([self._node.rows[key] for key in self.planned], dtype=np.intp)
            if not self._node.resident[rows].all():
                found = Plan(rows=rows, objective=0.0, reason=PlanReason.CATALOGUE)
        self._absent_due = False
        return None if found is None else self._by_keys(found)

    @property
    def planned(self) -> tuple[str, ...]:
        """The set of the latest plan, pins included; of these those not resident are worth a prefetch."""
        rows = self._controller.planned().tolist()
        rows += [row for row in np.flatnonzero(self._node.pinned).tolist() if row not in rows]
        return tuple(self._node.keys[row] for row in rows)

    # What others need

    def estimates(self) -> Estimates:
        """A snapshot that routers score requests with."""
        return self.statistics.estimates()

    def contributions(self, since: int = 0) -> tuple[Contribution, ...]:
        """What this node saw after its version `since` (`statistics.version`)."""
        return self.statistics.contributions(since)

    def merge(self, contributions: Sequence[Contribution]) -> None:
        """Take up what other nodes saw."""
        self.statistics.merge(contributions)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything that was learnt, for the disk, with the keys whose rows it is in."""
        parts: dict[str, Mapping[str, NDArray[np.generic]]] = {
            "statistics": self.statistics.arrays(),
            "times": self.times.arrays(),
            f"policy.{self._config.policy}": self._controller.arrays(),
        }
        found = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        return {
            **found,
            "keys": np.array(self._node.keys, dtype=np.str_),
            "seen": np.array(self._node.seen),
            "budget": _as_array(self._node.budget),
        }

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave, before anything else was told; residency is not part of it.

        The catalogue may have changed meanwhile: call it with the catalogue of then (`keys` in the arrays),
        and set today's afterwards. State of another policy is passed over; with another budget than then a
        plan is due.

        Raises:
            ValueError: it is of other adapters or another dimension.
        """
        if tuple(arrays["keys"].tolist()) != self._node.keys:
            raise ValueError("the state is of another catalogue")
        self.statistics.restore(_part(arrays, "statistics"))
        self.times.restore(_part(arrays, "times"))
        mine = _part(arrays, f"policy.{self._config.policy}")
        if mine:
            self._controller.restore(mine)
            if not np.array_equal(arrays.get("budget", np.zeros(0)), _as_array(self._node.budget)):
                self._controller.catalogue_changed(np.arange(len(self._node.keys)))
        self._node.seen = int(arrays["seen"])
        self._absent_due = True
        self._price_all()

    def _fits(self, held: Sequence[int], incoming: int) -> bool:
        budget, node = self._node.budget, self._node
        if len(held) + 1 > budget.slots:
            return False
        return budget.bytes is None or node.bytes[held].sum() + node.bytes[incoming] <= budget.bytes

    def _by_keys(self, plan: Plan) -> ResidencyPlan:
        node = self._node
        planned = set(plan.rows.tolist())
        held = [int(row) for row in np.flatnonzero(node.resident)]
        load = [int(row) for row in plan.rows if not node.resident[row]]
        spare = [row for row in held if row not in planned and not node.pinned[row]]
        staying, drop = list(held), []
        for incoming in load:
            while spare and not self._fits(staying, incoming):
                victim = self._controller.victim(node, spare, incoming)
                spare.remove(victim)
                staying.remove(victim)
                drop.append(victim)
            staying.append(incoming)
        return ResidencyPlan(
            keep=tuple(node.keys[row] for row in held if row in planned),
            load=tuple(node.keys[row] for row in load),
            drop=tuple(node.keys[row] for row in drop),
            objective=plan.objective,
            reason=plan.reason,
        )

    def _share(self) -> None:
        node = self._node
        node.share = np.maximum(1.0 / node.budget.slots, node.bytes / (node.budget.bytes or np.inf))

    def _price(self, row: int) -> None:
        tier = TIERS[self._tier[row]]
        self._node.page_in_cost[row] = self.times.cost(tier)[row]
        self._node.page_in_cost_min[row] = self.times.least_cost(tier)[row]

    def _price_all(self) -> None:
        each = np.arange(len(self._tier))
        self._node.page_in_cost = np.stack([self.times.cost(tier) for tier in TIERS])[self._tier, each]
        least = np.stack([self.times.least_cost(tier) for tier in TIERS])
        self._node.page_in_cost_min = least[self._tier, each]


def _as_array(budget: Budget) -> NDArray[np.int64]:
    return np.array([budget.slots, budget.reserve_slots, -1 if budget.bytes is None else budget.bytes])


def _part(arrays: Mapping[str, NDArray[np.generic]], part: str) -> dict[str, NDArray[np.generic]]:
    return {
        name.removeprefix(f"{part}."): value for name, value in arrays.items() if name.startswith(f"{part}.")
    }
