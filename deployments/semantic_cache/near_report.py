"""What the semantic tier holds and decides: for people as JSON, for Prometheus as metric families."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from cluster import metrics
from cluster.metrics import semantic_cache as catalogue
from cluster.policy.semantic_cache.evidence import NOTHING_IS_SERVED
from cluster.policy.semantic_cache.exact_scan import Vector
from cluster.policy.semantic_cache.store import PurgeScope, SemanticStore, StoredAnswer
from cluster.policy.semantic_cache.tier import SemanticTier, Verdict
from deployments.instruments import family
from deployments.semantic_cache.near_counts import Histogram, NearCounts

Families = Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]


def near_report(tier: SemanticTier, counts: NearCounts) -> dict[str, Any]:
    """The tier's state, category by category."""
    entries = tier.store.counts()
    return {
        "entries": len(tier.store),
        "bytes": tier.store.bytes,
        "partitions": tier.store.partitions,
        "removals": {reason.value: count for reason, count in tier.store.removals.items()},
        "load_level": tier.load_level,
        "saved_tokens": counts.saved_tokens,
        "saved_s": counts.saved_s,
        "saved_energy_j": counts.saved_energy_j,
        "saved_usd": counts.saved_usd,
        "woken": counts.woken,
        "unshared": counts.unshared,
        "unjudged": counts.unjudged,
        "unwritten": counts.unwritten,
        "unread": counts.unread,
        "away": counts.away,
        "silent_tenants": counts.silent_tenants,
        "categories": {
            category: _category(tier, counts, category, entries.get(category, 0))
            for category in sorted({*tier.categories(), *entries})
        },
    }


def near_listing(
    store: SemanticStore, scope: PurgeScope, vector: Vector | None, *, count: int, now_s: float
) -> list[dict[str, Any]]:
    """Entries of a scope, nearest first where a text's vector is given, else newest first."""
    pairs: list[tuple[StoredAnswer, float | None]] = []
    if vector is None:
        pairs += [(entry, None) for entry in list(store.entries())[::-1] if scope.covers(entry)]
    else:
        pairs += store.near(vector, scope, similarity_min=0.0)
    return [
        {
            "entry_id": entry.entry_id,
            "tenant": entry.partition.tenant,
            "model": entry.partition.model,
            "category": entry.category,
            "text": entry.text,
            "hits": entry.hits,
            "age_s": max(0.0, now_s - entry.stored_at_s),
            "shares_answer": entry.document_id != entry.entry_id,
            "similarity": cosine,
        }
        for entry, cosine in pairs[:count]
    ]


def near_families(tier: SemanticTier, counts: NearCounts) -> Families:
    """The same as metrics."""
    yield family(catalogue.CACHE_SEMANTIC_LOOKUPS, counts.verdicts)
    yield family(catalogue.CACHE_GUARD_REFUSALS, {(guard,): count for guard, count in counts.guards.items()})
    yield family(catalogue.CACHE_JUDGEMENTS, counts.judgements)
    removals = {(reason.value,): count for reason, count in tier.store.removals.items()}
    yield family(catalogue.CACHE_SEMANTIC_REMOVALS, removals)
    yield family(catalogue.CACHE_SAVED_TOKENS, {(): counts.saved_tokens})
    yield family(catalogue.CACHE_SAVED_SECONDS, {(): counts.saved_s})
    yield family(catalogue.CACHE_SAVED_ENERGY, {(): counts.saved_energy_j})
    yield family(catalogue.CACHE_SAVED_MONEY, {(): counts.saved_usd})
    yield family(
        catalogue.CACHE_SEMANTIC_DROPPED,
        {
            ("unread",): counts.unread,
            ("away",): counts.away,
            ("unjudged",): counts.unjudged,
            ("unwritten",): counts.unwritten,
        },
    )
    yield _histogram(catalogue.CACHE_SIMILARITY, counts.similarity)
    yield _histogram(catalogue.CACHE_HIT_AGE, counts.age_s)
    yield family(catalogue.CACHE_SILENT_TENANTS, {(): counts.silent_tenants})
    reports = near_report(tier, counts)["categories"]
    for metric, field in (
        (catalogue.CACHE_SEMANTIC_ENTRIES, "entries"),
        (catalogue.CACHE_THRESHOLD, "threshold"),
        (catalogue.CACHE_WRONG_RATE, "wrong_rate"),
        (catalogue.CACHE_WRONG_RATE_UPPER, "wrong_rate_upper"),
        (catalogue.CACHE_ERROR_MAX, "error_max"),
        (catalogue.CACHE_HIT_RATE, "hit_rate"),
        (catalogue.CACHE_BREAK_EVEN, "break_even_hit_rate"),
        (catalogue.CACHE_QUOTA_USE, "quota_use"),
    ):
        yield family(metric, {(category,): report[field] for category, report in reports.items()})


def _category(tier: SemanticTier, counts: NearCounts, category: str, entries: int) -> dict[str, Any]:
    worth, bound = tier.worth(category), tier.bound(category)
    lookups = sum(count for (name, _), count in counts.verdicts.items() if name == category)
    near = counts.verdicts[category, Verdict.NEAR.value]
    return {
        "entries": entries,
        "quota_use": entries / tier.store.quota(category),
        "threshold": tier.threshold(category),
        "serves": bound.threshold < NOTHING_IS_SERVED and worth.off_since_s is None,
        "judged": bound.judged,
        "wrong": bound.wrong,
        "wrong_rate": bound.rate,
        "wrong_rate_upper": bound.upper,
        "error_max": tier.store.policy(category).error_max,
        "lookups": lookups,
        "hit_rate": worth.hit_rate,
        "near_rate": near / lookups if lookups else 0.0,
        "break_even_hit_rate": tier.break_even(category),
        "is_off": worth.off_since_s is not None,
    }


def _histogram(metric: metrics.Metric, values: Histogram) -> HistogramMetricFamily:
    found = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    running = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, values.bounds), "+Inf"], values.counts, strict=True):
        running += count
        buckets.append((bound, float(running)))
    found.add_metric([], buckets=buckets, sum_value=values.sum)
    return found
