"""Which entries go when room is needed: those whose bytes are expected to save least.

Greedy-Dual-Size with Frequency (Cherkasova, HPL-98-69): an entry is worth priority · uses · saved cost per
byte on top of a clock that rises to the worth of each one that goes, so that what nobody asks for ages
without a timer.
"""

import heapq
import itertools


class Worths:
    """Entries of one category by worth."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str]] = []
        self._present: dict[str, tuple[float, int]] = {}
        self._order = itertools.count()
        self._clock = 0.0

    def __len__(self) -> int:
        return len(self._present)

    def set(self, entry_id: str, *, uses: int, saved_cost: float, size_bytes: int, priority: float) -> None:
        """Values an entry that is new or was used."""
        worth = self._clock + priority * uses * saved_cost / size_bytes
        mark = (worth, next(self._order))
        self._present[entry_id] = mark
        heapq.heappush(self._heap, (*mark, entry_id))
        if len(self._heap) > 4 * len(self._present) + 64:
            self._heap = [(*mark, entry) for entry, mark in self._present.items()]
            heapq.heapify(self._heap)

    def remove(self, entry_id: str) -> None:
        """Forgets an entry that went for another reason."""
        del self._present[entry_id]

    def least(self) -> tuple[float, str] | None:
        """How far the least worthy entry is above the clock, and which it is."""
        while self._heap:
            worth, order, entry_id = self._heap[0]
            if self._present.get(entry_id) == (worth, order):
                return worth - self._clock, entry_id
            heapq.heappop(self._heap)
        return None

    def evict(self) -> str:
        """Takes the least worthy entry out.

        Raises:
            LookupError: there is none.
        """
        found = self.least()
        if found is None:
            raise LookupError("no entries")
        self._clock += found[0]
        del self._present[found[1]]
        return found[1]
