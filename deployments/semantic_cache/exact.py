"""The exact tier: answers to requests that are equal byte for byte, in memory.

It exists because an answer that was already computed costs no engine time. It knows no I/O and no clock:
the caller says what time it is, so that every bound below can be tested against a model of it.

Bounds: `entries_max` and `bytes_max` evict the least recently used answer of all, `tenant_share_max` the
least recently used of the tenant that stores, so that no tenant pushes the others out by volume. An answer
dies `ttl_s` after it was stored, however often it was served.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from cluster.config.semantic_cache import ExactTierConfig


class EntryKey(NamedTuple):
    """What an answer belongs to. The tenant is part of it, so answers cannot cross tenants."""

    tenant: str
    model: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A whole answer as it went to the client."""

    body: bytes
    content_type: str
    stored_at_s: float

    def age_s(self, now_s: float) -> float:
        """Seconds since the answer was stored, never negative."""
        return max(0.0, now_s - self.stored_at_s)


class EvictionReason(StrEnum):
    """Why an answer was forgotten (label of `tidemill_cache_evictions_total`)."""

    CAPACITY = "capacity"
    TENANT_SHARE = "tenant_share"
    EXPIRED = "expired"
    PURGED = "purged"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactTierStats:
    """What the tier holds and what it has forgotten since the start."""

    entries: int
    bytes: int
    tenants: int
    evictions: dict[EvictionReason, int]
    too_large: int
    """Answers that were not stored because of their size."""


class ExactTier:
    """A bounded store of answers. `now_s` must not go backwards between calls."""

    def __init__(self, config: ExactTierConfig) -> None:
        self._config = config
        self._tenant_bytes_max = int(config.bytes_max * config.tenant_share_max)
        # Storage order is expiry order, because the time to live is the same for all.
        self._entries: OrderedDict[EntryKey, Entry] = OrderedDict()
        self._by_use: OrderedDict[EntryKey, None] = OrderedDict()
        self._tenants: dict[str, _TenantHolding] = {}
        self._bytes = 0
        self._too_large = 0
        self._evictions = dict.fromkeys(EvictionReason, 0)

    @property
    def answer_bytes_max(self) -> int:
        """The largest answer that can be stored."""
        return min(self._config.entry_bytes_max, self._tenant_bytes_max)

    def get(self, key: EntryKey, *, now_s: float) -> Entry | None:
        """The answer, which becomes the most recently used; None if there is none or it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._is_expired(entry, now_s):
            self._evict(key, EvictionReason.EXPIRED)
            return None
        self._by_use.move_to_end(key)
        self._tenants[key.tenant].by_use.move_to_end(key)
        return entry

    def put(self, key: EntryKey, entry: Entry) -> bool:
        """Keeps an answer, in place of an older one under the same key.

        Returns:
            False if the answer is larger than `answer_bytes_max` and was not stored.
        """
        size_bytes = len(entry.body)
        if size_bytes > self.answer_bytes_max:
            self.refuse()
            return False
        self.expire(now_s=entry.stored_at_s)
        if key in self._entries:
            self._remove(key)
        self._make_room(key.tenant, size_bytes)
        self._entries[key] = entry
        self._by_use[key] = None
        holding = self._tenants.setdefault(key.tenant, _TenantHolding())
        holding.by_use[key] = None
        holding.bytes += size_bytes
        self._bytes += size_bytes
        return True

    def refuse(self) -> None:
        """Counts an answer that was too large to be taken in."""
        self._too_large += 1

    def expire(self, *, now_s: float) -> int:
        """Forgets everything older than `ttl_s` and says how many answers that were."""
        count = 0
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if not self._is_expired(entry, now_s):
                break
            self._evict(key, EvictionReason.EXPIRED)
            count += 1
        return count

    def purge(self, tenant: str | None = None, model: str | None = None) -> int:
        """Forgets the answers of a tenant, of a model, of a tenant's model, or (with neither) all of them.

        Returns:
            How many answers were forgotten.
        """
        doomed = [
            key
            for key in self._entries
            if (tenant is None or key.tenant == tenant) and (model is None or key.model == model)
        ]
        for key in doomed:
            self._evict(key, EvictionReason.PURGED)
        return len(doomed)

    def forget(self, key: EntryKey) -> bool:
        """Forgets one answer; False if it is not there."""
        if key not in self._entries:
            return False
        self._evict(key, EvictionReason.PURGED)
        return True

    def stats(self) -> ExactTierStats:
        """The present size and the counters; answers past their time that nobody asked for still count."""
        return ExactTierStats(
            entries=len(self._entries),
            bytes=self._bytes,
            tenants=len(self._tenants),
            evictions=dict(self._evictions),
            too_large=self._too_large,
        )

    def tenant_bytes(self, tenant: str) -> int:
        """Bytes of answers that a tenant holds."""
        holding = self._tenants.get(tenant)
        return holding.bytes if holding else 0

    def _is_expired(self, entry: Entry, now_s: float) -> bool:
        return now_s - entry.stored_at_s >= self._config.ttl_s

    def _make_room(self, tenant: str, size_bytes: int) -> None:
        while (own := self._tenants.get(tenant)) and own.bytes + size_bytes > self._tenant_bytes_max:
            self._evict(next(iter(own.by_use)), EvictionReason.TENANT_SHARE)
        while self._entries and (
            len(self._entries) >= self._config.entries_max
            or self._bytes + size_bytes > self._config.bytes_max
        ):
            self._evict(next(iter(self._by_use)), EvictionReason.CAPACITY)

    def _evict(self, key: EntryKey, reason: EvictionReason) -> None:
        self._remove(key)
        self._evictions[reason] += 1

    def _remove(self, key: EntryKey) -> None:
        size_bytes = len(self._entries.pop(key).body)
        del self._by_use[key]
        holding = self._tenants[key.tenant]
        del holding.by_use[key]
        holding.bytes -= size_bytes
        self._bytes -= size_bytes
        if not holding.by_use:
            del self._tenants[key.tenant]


class _TenantHolding:
    """What one tenant has in the tier, least recently used first."""

    __slots__ = ("by_use", "bytes")

    def __init__(self) -> None:
        self.by_use: OrderedDict[EntryKey, None] = OrderedDict()
        self.bytes = 0
