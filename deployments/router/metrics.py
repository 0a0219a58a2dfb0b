"""The router's Prometheus metrics, made from the catalogue."""

from collections import Counter as Count
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cluster import metrics as catalogue
from cluster.entities.decision import DecisionRecord
from cluster.entities.pool import ReplicaReport
from cluster.entities.reasons import Reason

_FALLBACKS = frozenset({Reason.PREFILL_FAILED, Reason.PREFILL_TIMED_OUT, Reason.TICKET_MISSING})
_TURNED_AWAY = {429: Reason.QUEUE_FULL, 503: Reason.QUEUE_TIMED_OUT}
_OURS = (
    catalogue.REQUESTS,
    catalogue.REQUESTS_IN_FLIGHT,
    catalogue.REQUESTS_QUEUED,
    catalogue.REJECTED,
    catalogue.TTFT,
    catalogue.TPOT,
    catalogue.E2E,
    catalogue.ROUTER_OVERHEAD,
    catalogue.PROMPT_TOKENS,
    catalogue.OUTPUT_TOKENS,
    catalogue.FALLBACKS,
    catalogue.RETRIES,
    catalogue.REPLICA_FAILURES,
    catalogue.REPLICAS,
    catalogue.DECISIONS_DROPPED,
)


class RouterMetrics:
    """Counts what one router replica does."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {metric.name: self._make(metric) for metric in _OURS}

    def _make(self, metric: catalogue.Metric) -> Any:
        if metric.kind == "histogram":
            return Histogram(
                metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self._registry
            )
        kind = Counter if metric.kind == "counter" else Gauge
        return kind(metric.name, metric.help, metric.labels, registry=self._registry)

    def _get(self, metric: catalogue.Metric) -> Any:
        return self._metrics[metric.name]

    def request(self, record: DecisionRecord) -> None:
        """Count a finished request."""
        path = record.path.value if record.path else "none"
        self._get(catalogue.REQUESTS).labels(
            record.signals.surface.value, path, str(record.status), record.cache
        ).inc()
        timeline = record.timeline
        for metric, value in (
            (catalogue.TTFT, timeline.ttft_s),
            (catalogue.TPOT, timeline.tpot_s),
            (catalogue.E2E, timeline.e2e_s),
        ):
            # A whole answer has no gaps between tokens that anybody saw.
            unseen = metric is catalogue.TPOT and not record.signals.stream
            if value is not None and record.status == 200 and not unseen:
                self._get(metric).labels(path).observe(value)
        if timeline.dispatched_at_s is not None:
            self._get(catalogue.ROUTER_OVERHEAD).observe(timeline.dispatched_at_s - timeline.arrived_at_s)
        self._get(catalogue.PROMPT_TOKENS).labels(record.signals.model).inc(record.prompt_tokens or 0)
        self._get(catalogue.OUTPUT_TOKENS).labels(record.signals.model).inc(record.output_tokens)
        for reason in record.reasons:
            if reason in _FALLBACKS:
                self._get(catalogue.FALLBACKS).labels(reason.value).inc()

    def turned_away(self, status: int) -> None:
        """Count a request that got no engine, if that is what the status says."""
        if status in _TURNED_AWAY:
            self._get(catalogue.REJECTED).labels(_TURNED_AWAY[status].value).inc()

    def retry(self, reason: Reason) -> None:
        """Count a further attempt."""
        self._get(catalogue.RETRIES).labels(reason.value).inc()

    def replica_failed(self, pool: str) -> None:
        """Count an attempt that a replica failed."""
        self._get(catalogue.REPLICA_FAILURES).labels(pool).inc()

    def decision_dropped(self) -> None:
        """Count a record that was lost."""
        self._get(catalogue.DECISIONS_DROPPED).inc()

    def fleet(self, reports: Iterable[ReplicaReport]) -> None:
        """Show the routing table."""
        gauge = self._get(catalogue.REPLICAS)
        gauge.clear()
        for (pool, phase), number in Count((r.pool, r.phase.value) for r in reports).items():
            gauge.labels(pool, phase).set(number)

    def text(self, *, in_flight: int, queued: int) -> bytes:
        """The Prometheus text format."""
        self._get(catalogue.REQUESTS_IN_FLIGHT).set(in_flight)
        self._get(catalogue.REQUESTS_QUEUED).set(queued)
        return generate_latest(self._registry)
