"""The cache's numbers as Prometheus text, from the one catalogue of metrics.

It exists because the counts are kept where they arise (store, leases, look-ups) and read only when scraped:
the look-up path pays for no metrics library.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cluster.metrics import semantic_cache as catalogue
from deployments.instruments import family
from deployments.semantic_cache.exact import ExactTierStats
from deployments.semantic_cache.near import NearMatches
from deployments.semantic_cache.near_report import near_families


class LookupOutcome(StrEnum):
    """How a look-up ended (label of `tidemill_cache_lookups_total`)."""

    HIT = "hit"
    """The answer was stored already, for an equal request or for one that means the same."""
    SHARED = "shared"
    """The answer came from an equal request that was being computed."""
    MISS = "miss"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCounts:
    """What is exported."""

    lookups: Mapping[LookupOutcome, int]
    exact: ExactTierStats
    waiters: int


class _Snapshot(Collector):
    def __init__(self, counts: CacheCounts, near: NearMatches | None) -> None:
        self._counts = counts
        self._near = near

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        yield family(catalogue.CACHE_LOOKUPS, {(name,): count for name, count in counts.lookups.items()})
        yield family(catalogue.CACHE_EVICTIONS, {(name,): n for name, n in counts.exact.evictions.items()})
        yield family(catalogue.CACHE_ENTRIES, {(): counts.exact.entries})
        yield family(catalogue.CACHE_BYTES, {(): counts.exact.bytes})
        yield family(catalogue.CACHE_WAITERS, {(): counts.waiters})
        if self._near is not None:
            yield from near_families(self._near.tier, self._near.counts)


def render_metrics(counts: CacheCounts, near: NearMatches | None = None) -> tuple[bytes, str]:
    """The text and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(counts, near))
    return generate_latest(registry), CONTENT_TYPE_LATEST
