"""What a node's pager is told, what it answers, and the shape of every residency controller.

Adapters are called by a key, the SHA-256 of their weights: other weights are another adapter. Inside, they
are rows of arrays, in the order of the node's catalogue; `reindexed` carries what is known over when that
changes. Controllers are state machines: what happens is told to them, what should happen is asked of them,
time and chance are arguments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Narrow = NDArray[np.float32]
Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]


class PlanReason(StrEnum):
    """Why a residency plan was made."""

    EPOCH = "epoch"
    """An epoch of requests is over."""

    DRIFT = "drift"
    """Requests need other adapters than they did."""

    DEMAND = "demand"
    """Not holding an adapter has cost as much as a page-in (rent or buy)."""

    CATALOGUE = "catalogue"
    """Adapters came, went or changed, or the budget did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedAdapter:
    """What the pager must know of an adapter."""

    key: str
    """SHA-256 of its weights."""

    bytes: int
    """It takes in the engine."""

    pinned: bool = False
    """It is never evicted."""

    prior_utility: float = 0.5
    """Expected utility of its answers before any was judged."""

    replaces: str = ""
    """Key of the weights that these follow; what is known of those is inherited in part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a node can hold."""

    slots: int
    """Adapters in the engine at a time, reserve included."""

    reserve_slots: int = 1
    """Slots that no plan and no pin takes, so that any adapter can always be loaded."""

    bytes: int | None = None
    """Of all resident adapters together; None: slots alone limit."""

    def __post_init__(self) -> None:
        if not 1 <= self.reserve_slots <= self.slots:
            raise ValueError(f"reserve_slots must lie between 1 and slots, not {self.reserve_slots}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidencyPlan:
    """Which adapters should be resident; whatever else is, serves as reserve."""

    keep: tuple[str, ...]
    """Resident and planned."""

    load: tuple[str, ...]
    """Planned and not resident, most valuable first."""

    drop: tuple[str, ...]
    """Resident, not planned, and in the way of `load`: the first to be evicted comes first."""

    objective: float
    """Expected utility per request, above that of an empty node."""

    reason: PlanReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A residency plan by rows."""

    rows: Rows
    objective: float
    reason: PlanReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One request, as controllers see it."""

    row: int
    """The adapter that serves it."""

    x: Numbers
    """The vector that stands for it."""

    optimistic: Numbers
    """Of every adapter, utility of an answer and its bonus; without meaning if `named`."""

    named: bool
    """The request asked for this adapter and no other."""

    forced: bool
    """Served by this adapter so that something is learnt: no demand for it."""


class NodeState:
    """What all parts of a node's pager look at; `core.py` alone changes it."""

    __slots__ = (
        "budget",
        "bytes",
        "keys",
        "page_in_cost",
        "page_in_cost_min",
        "pinned",
        "resident",
        "rows",
        "seen",
        "share",
    )

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.keys: tuple[str, ...] = ()
        self.rows: dict[str, int] = {}
        self.bytes: Numbers = np.zeros(0)
        self.share: Numbers = np.zeros(0)
        """Of the node that each adapter takes: of its slots or of its bytes, whichever is more."""
        self.pinned: Mask = np.zeros(0, dtype=bool)
        self.page_in_cost: Numbers = np.zeros(0)
        """Utility that a page-in of each adapter is expected to cost."""
        self.page_in_cost_min: Numbers = np.zeros(0)
        """What it costs at least, as far as can be said; evictions go by this."""
        self.resident: Mask = np.zeros(0, dtype=bool)
        self.seen = 0
        """Requests so far."""


class Controller(Protocol):
    """Decides which adapters stay resident."""

    def requested(self, node: NodeState, demand: Demand) -> None:
        """A request was routed; whether it finds its adapter resident stands in the node's state."""

    def loaded(self, node: NodeState, row: int) -> None:
        """An adapter is in the engine now."""

    def evicted(self, node: NodeState, row: int) -> None:
        """An adapter left the engine to make room."""

    def victim(self, node: NodeState, evictable: Sequence[int], incoming: int) -> int:
        """Which of these, at least one, should leave for the incoming adapter."""

    def plan(self, node: NodeState, learned: "Learned") -> Plan | None:
        """What should be resident from now on; None: nothing new."""

    def planned(self) -> Rows:
        """The set of the latest plan."""

    def forced(self, node: NodeState, learned: "Learned") -> int | None:
        """The adapter that the next open request should go to for the sake of learning, if any."""

    def catalogue_changed(self, origin: Rows) -> None:
        """Every row's former row, or the one it inherits from, or -1 for an adapter that is new."""

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave, for the same catalogue in the same order."""


class Learned(Protocol):
    """What controllers ask of the statistics."""

    @property
    def count(self) -> Numbers:
        """Judged answers of every adapter."""

    def scored_many(self, contexts: Narrow) -> tuple[Narrow, Narrow]:
        """Mean and width of every adapter's (columns) utility for every context (rows)."""


def carried(values: Numbers, origin: Rows, fill: float) -> Numbers:
    """Values per row after a change of the catalogue."""
    out = np.full((len(origin), *values.shape[1:]), fill)
    old = origin >= 0
    out[old] = values[origin[old]]
    return out
