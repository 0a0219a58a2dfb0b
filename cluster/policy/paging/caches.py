"""Caches that look at requests only: least recently used, least frequently used, GreedyDual-Size-Frequency.

`lru` is what vLLM does with its slots. `lfu` counts with decay, so that old popularity fades. `gdsf` keeps
what is asked for often, costs much to load and takes few bytes, and ages by the priority of what it last
evicted (Cao and Irani, "Cost-aware WWW proxy caching algorithms", 1997; Cherkasova, "Improving WWW proxies
performance with Greedy-Dual-Size-Frequency caching policy", 1998).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.policy.paging.interface import Demand, Learned, NodeState, Numbers, Plan, Rows, carried


class Counts:
    """Requests per adapter, each worth less with every later request."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._grown = 1.0
        self._scaled: Numbers = np.zeros(0)

    def add(self, row: int) -> None:
        """One more request; it counts more, instead of all others less: one addition, not n products."""
        self._grown /= self._decay
        self._scaled[row] += self._grown
        if self._grown > 1e100:
            self._scaled /= self._grown
            self._grown = 1.0

    @property
    def scaled(self) -> Numbers:
        """Counts up to a factor that is the same for all."""
        return self._scaled

    def values(self) -> Numbers:
        """Counts; a request just seen counts 1."""
        return self._scaled / self._grown

    def catalogue_changed(self, origin: Rows) -> None:
        """Other adapters."""
        self._scaled = carried(self._scaled, origin, 0.0)

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return {"counts": self.values()}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave."""
        self._scaled, self._grown = np.array(arrays["counts"], dtype=np.float64), 1.0


class Cache:
    """What a controller is that makes no plans: a value per adapter, and the smallest leaves."""

    def __init__(self) -> None:
        self._value: Numbers = np.zeros(0)

    def requested(self, node: NodeState, demand: Demand) -> None:
        """See the subclasses."""
        raise NotImplementedError

    def loaded(self, node: NodeState, row: int) -> None:
        """Nothing to note."""

    def evicted(self, node: NodeState, row: int) -> None:
        """Nothing to note."""

    def victim(self, node: NodeState, evictable: Sequence[int], incoming: int) -> int:
        """The smallest value; of equals the first in the catalogue."""
        del node, incoming
        return min(evictable, key=lambda row: (self._value[row], row))

    def plan(self, node: NodeState, learned: Learned) -> Plan | None:
        """None ever."""
        del node, learned
        return None

    def planned(self) -> Rows:
        """Nothing ever."""
        return np.zeros(0, dtype=np.intp)

    def forced(self, node: NodeState, learned: Learned) -> int | None:
        """None ever."""
        del node, learned
        return None

    def catalogue_changed(self, origin: Rows) -> None:
        """New adapters begin with nothing."""
        self._value = carried(self._value, origin, 0.0)

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return {"value": self._value}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave."""
        self._value = np.array(arrays["value"], dtype=np.float64)


class Lru(Cache):
    """The value is the number of the latest request."""

    def requested(self, node: NodeState, demand: Demand) -> None:
        """The newest of all."""
        self._value[demand.row] = node.seen


class Lfu(Cache):
    """The value is the decayed count."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._counts = Counts(decay)

    def requested(self, node: NodeState, demand: Demand) -> None:
        """One more."""
        del node
        self._counts.add(demand.row)
        self._value = self._counts.scaled

    def catalogue_changed(self, origin: Rows) -> None:
        """New adapters begin with nothing."""
        self._counts.catalogue_changed(origin)
        self._value = self._counts.scaled

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return self._counts.arrays()

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave."""
        self._counts.restore(arrays)
        self._value = self._counts.scaled


class Gdsf(Cache):
    """The value is H = L + frequency · cost / size; L is the value that left last.

    The size is the share of the node: in an engine whose slots are all as large, bytes do not matter. The
    frequency counts since the adapter came: one that returns begins anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self._frequency: Numbers = np.zeros(0)
        self._floor = 0.0

    def requested(self, node: NodeState, demand: Demand) -> None:
        """One more, on top of the present floor."""
        self._frequency[demand.row] += 1.0
        self._revalue(node, demand.row)

    def loaded(self, node: NodeState, row: int) -> None:
        """On top of the floor that evictions for it left; loaded by plan it counts as asked for once."""
        self._frequency[row] = max(self._frequency[row], 1.0)
        self._revalue(node, row)

    def evicted(self, node: NodeState, row: int) -> None:
        """The floor rises to what had to go."""
        del node
        self._floor = max(self._floor, float(self._value[row]))
        self._frequency[row] = 0.0

    def _revalue(self, node: NodeState, row: int) -> None:
        self._value[row] = self._floor + self._frequency[row] * node.page_in_cost_min[row] / node.share[row]

    def catalogue_changed(self, origin: Rows) -> None:
        """New adapters begin with nothing."""
        super().catalogue_changed(origin)
        self._frequency = carried(self._frequency, origin, 0.0)

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """For the disk."""
        return {"value": self._value, "frequency": self._frequency, "floor": np.array(self._floor)}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave."""
        super().restore(arrays)
        self._frequency = np.array(arrays["frequency"], dtype=np.float64)
        self._floor = float(np.asarray(arrays["floor"], dtype=np.float64))
