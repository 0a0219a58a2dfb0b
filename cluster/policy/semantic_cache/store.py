"""What the semantic tier holds: vectors by hard partition, bounds, ages, and who goes first.

It knows no documents, no clock and no I/O: whoever asks says what time it is, and gets told which documents
nobody refers to any more. A look-up sees one partition and nothing else, so that no filter can be forgotten.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from cluster.config.semantic_cache import CategoryCacheConfig, SemanticTierConfig
from cluster.policy.semantic_cache.eviction import Worths
from cluster.policy.semantic_cache.exact_scan import ExactScan, Vector, VectorIndex
from cluster.policy.semantic_cache.identity import Partition

ENTRY_OVERHEAD_BYTES = 1024
"""What an entry takes beside its vector, its text and its document: measured, rounded up."""


class Removal(StrEnum):
    """Why an entry went (label of `tidemill_cache_semantic_removals_total`)."""

    CAPACITY = "capacity"
    QUOTA = "quota"
    EXPIRED = "expired"
    PURGED = "purged"
    REPLACED = "replaced"


@dataclass(slots=True, kw_only=True, eq=False)
class StoredAnswer:
    """One text that was asked, and the document that answers it."""

    entry_id: str
    partition: Partition
    category: str
    language: str
    text: str
    document_id: str
    document_bytes: int
    saved_s: float
    """What computing the answer took."""
    saved_tokens: int
    saved_energy_j: float = 0.0
    saved_usd: float = 0.0
    stored_at_s: float
    """When the answer was computed. A hit does not change it, nor does a promotion."""
    exact_key: str = ""
    """Key of the request whose answer it was: a purge forgets what equal requests are answered as well."""
    hits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeScope:
    """What is to be forgotten; what is None does not matter. All of what is given must hold."""

    tenant: str | None = None
    model: str | None = None
    category: str | None = None
    entry_id: str | None = None

    def covers(self, entry: StoredAnswer) -> bool:
        """Whether an entry is to be forgotten."""
        return (
            self.tenant in (None, entry.partition.tenant)
            and self.model in (None, entry.partition.model)
            and self.category in (None, entry.category)
            and self.entry_id in (None, entry.entry_id)
        )


class SemanticStore:
    """Entries of all partitions. `now_s` must not go backwards between calls."""

    def __init__(
        self,
        config: SemanticTierConfig,
        *,
        dimensions: int,
        new_index: Callable[[], VectorIndex] | None = None,
    ) -> None:
        self._config = config
        self._dimensions = dimensions
        self._new_index = new_index or (lambda: ExactScan(dimensions))
        self._indexes: dict[Partition, VectorIndex] = {}
        self._by_key: dict[int, StoredAnswer] = {}
        self._keys: dict[str, int] = {}
        self._worths: dict[str, Worths] = {}
        self._by_age: OrderedDict[str, None] = OrderedDict()
        self._references: dict[str, int] = {}
        self._freed: list[str] = []
        self._removed: list[tuple[StoredAnswer, Removal]] = []
        self._next_key = 0
        self._bytes = 0
        self.removals = dict.fromkeys(Removal, 0)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def bytes(self) -> int:
        """What all entries are taken to occupy."""
        return self._bytes

    @property
    def partitions(self) -> int:
        """Partitions that hold anything."""
        return len(self._indexes)

    def counts(self) -> dict[str, int]:
        """Entries by category."""
        return {category: len(worths) for category, worths in self._worths.items() if len(worths)}

    def entries(self) -> Iterator[StoredAnswer]:
        """All, the oldest in the store first."""
        return (self._by_key[self._keys[entry_id]] for entry_id in self._by_age)

    def of(self, partition: Partition) -> frozenset[str]:
        """Ids of the entries of a partition."""
        return frozenset(entry.entry_id for entry in self.entries() if entry.partition == partition)

    def get(self, entry_id: str) -> StoredAnswer | None:
        """An entry by id."""
        key = self._keys.get(entry_id)
        return None if key is None else self._by_key[key]

    def policy(self, category: str) -> CategoryCacheConfig:
        """What holds for a category."""
        return self._config.categories.get(category, self._config.default)

    def quota(self, category: str) -> int:
        """Entries that a category may have."""
        return max(1, int(self._config.entries_max * self.policy(category).share_max))

    def put(self, entry: StoredAnswer, vector: Vector) -> bool:
        """Keeps an entry, in place of an older one of the same id.

        Returns:
            False if it is larger than everything, or its category must not be kept.
        """
        size_bytes = self._size_bytes(entry)
        if size_bytes > self._config.bytes_max or not self.policy(entry.category).allow:
            return False
        if entry.entry_id in self._keys:
            self._remove(entry.entry_id, Removal.REPLACED)
        self._make_room(entry.category, size_bytes)
        key = self._next_key
        self._next_key += 1
        self._keys[entry.entry_id] = key
        self._by_key[key] = entry
        self._by_age[entry.entry_id] = None
        self._references[entry.document_id] = self._references.get(entry.document_id, 0) + 1
        self._bytes += size_bytes
        self._indexes.setdefault(entry.partition, self._new_index()).add(key, vector)
        self._value(entry)
        return True

    def nearest(self, partition: Partition, vector: Vector, count: int) -> list[tuple[StoredAnswer, float]]:
        """The nearest entries of one partition with their cosines; ages are the caller's business."""
        index = self._indexes.get(partition)
        if index is None:
            return []
        return [(self._by_key[key], cosine) for key, cosine in index.nearest(vector, count)]

    def used(self, entry: StoredAnswer) -> None:
        """Counts a hit, which makes the entry worth more and not younger."""
        entry.hits += 1
        self._value(entry)

    def promote(self, entry_id: str, onto: str) -> bool:
        """Lets an entry be answered by another one's document, because both were judged the same.

        Returns:
            False if one of them is gone, or they are of different partitions.
        """
        entry, target = self.get(entry_id), self.get(onto)
        if entry is None or target is None or entry.partition != target.partition:
            return False
        if entry.document_id == target.document_id:
            return True
        self._bytes -= self._size_bytes(entry)
        self._release(entry.document_id)
        entry.document_id, entry.document_bytes = target.document_id, 0
        # The promise about ages is one about the answer, whoever points to it.
        entry.stored_at_s = min(entry.stored_at_s, target.stored_at_s)
        self._references[entry.document_id] += 1
        self._bytes += self._size_bytes(entry)
        self._value(entry)
        return True

    def remove(self, entry_id: str, reason: Removal) -> None:
        """Forgets an entry, if it is there."""
        if entry_id in self._keys:
            self._remove(entry_id, reason)

    def purge(self, scope: PurgeScope) -> list[str]:
        """Forgets what a scope covers and says which entries these were."""
        doomed = [entry.entry_id for entry in self.entries() if scope.covers(entry)]
        for entry_id in doomed:
            self._remove(entry_id, Removal.PURGED)
        return doomed

    def near(
        self, vector: Vector, scope: PurgeScope, *, similarity_min: float
    ) -> list[tuple[StoredAnswer, float]]:
        """Entries of a scope that are near a text, across partitions: for operators, never for look-ups."""
        found: list[tuple[StoredAnswer, float]] = []
        for index in self._indexes.values():
            for key, cosine in index.nearest(vector, len(index)):
                if cosine >= similarity_min and scope.covers(self._by_key[key]):
                    found.append((self._by_key[key], cosine))
        return sorted(found, key=lambda pair: -pair[1])

    def expire(self, *, now_s: float, stretch: float = 1.0) -> int:
        """Forgets what is too old for its category and says how many entries that were.

        Args:
            now_s: The time.
            stretch: By what factor lives are longer at the moment.
        """
        doomed = [
            entry.entry_id
            for entry in self.entries()
            if now_s - entry.stored_at_s >= self.policy(entry.category).ttl_s * stretch
        ]
        for entry_id in doomed:
            self._remove(entry_id, Removal.EXPIRED)
        return len(doomed)

    def freed_documents(self) -> list[str]:
        """Documents that nobody refers to since this was asked last."""
        freed, self._freed = self._freed, []
        # A document may have come back under its old id meanwhile.
        return [document_id for document_id in freed if document_id not in self._references]

    def removed_entries(self) -> list[tuple[StoredAnswer, Removal]]:
        """Entries that went since this was asked last, and why."""
        removed, self._removed = self._removed, []
        return [(entry, reason) for entry, reason in removed if entry.entry_id not in self._keys]

    def _make_room(self, category: str, size_bytes: int) -> None:
        worths = self._worths.setdefault(category, Worths())
        while len(worths) >= self.quota(category):
            self._remove(worths.evict(), Removal.QUOTA, valued=False)
        while self._keys and (
            len(self._keys) >= self._config.entries_max or self._bytes + size_bytes > self._config.bytes_max
        ):
            heads = [
                (head[0], name) for name, each in self._worths.items() if (head := each.least()) is not None
            ]
            self._remove(self._worths[min(heads)[1]].evict(), Removal.CAPACITY, valued=False)

    def _value(self, entry: StoredAnswer) -> None:
        self._worths.setdefault(entry.category, Worths()).set(
            entry.entry_id,
            uses=entry.hits + 1,
            saved_cost=max(entry.saved_s, 1e-3),
            size_bytes=self._size_bytes(entry),
            priority=self.policy(entry.category).priority,
        )

    def _size_bytes(self, entry: StoredAnswer) -> int:
        return ENTRY_OVERHEAD_BYTES + 4 * self._dimensions + len(entry.text) + entry.document_bytes

    def _remove(self, entry_id: str, reason: Removal, *, valued: bool = True) -> None:
        key = self._keys.pop(entry_id)
        entry = self._by_key.pop(key)
        del self._by_age[entry_id]
        if valued:
            self._worths[entry.category].remove(entry_id)
        index = self._indexes[entry.partition]
        index.remove(key)
        if not len(index):
            del self._indexes[entry.partition]
        self._bytes -= self._size_bytes(entry)
        self._release(entry.document_id)
        self._removed.append((entry, reason))
        self.removals[reason] += 1

    def _release(self, document_id: str) -> None:
        left = self._references[document_id] - 1
        if left:
            self._references[document_id] = left
        else:
            del self._references[document_id]
            self._freed.append(document_id)
