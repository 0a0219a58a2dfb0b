"""The pager's Prometheus metrics, made from the catalogue. Exposed beside the engine's."""

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from cluster.entities.adapters import AdapterTier
from cluster.metrics import Metric, adapters
from deployments.adapter_pager.entries import Shelf
from deployments.instruments import instrument


class PagerMetrics:
    """Counts what one pager does."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {
            metric.name: instrument(metric, self._registry) for metric in adapters.METRICS
        }

    def count(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""
        found = self._metrics[metric.name]
        (found.labels(*labels) if labels else found).inc(by)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to a histogram."""
        found = self._metrics[metric.name]
        (found.labels(*labels) if labels else found).observe(value)

    def set(self, metric: Metric, value: float) -> None:
        """Set a gauge without labels."""
        self._metrics[metric.name].set(value)

    def total(self, metric: Metric) -> float:
        """A counter's sum over its labels, for the status page."""
        samples = [s for family in self._metrics[metric.name].collect() for s in family.samples]
        return float(sum(sample.value for sample in samples if sample.name.endswith("_total")))

    def text(self, shelf: Shelf) -> bytes:
        """Everything, as Prometheus reads it."""
        self.set(adapters.ADAPTER_PARKED_NOW, shelf.parked)
        entries, resident = (
            self._metrics[metric.name] for metric in (adapters.ADAPTER_ENTRIES, adapters.ADAPTER_RESIDENT)
        )
        for tier in AdapterTier:
            entries.labels(tier.value).set(sum(e.tier is tier for e in shelf.by_name.values()))
        resident.clear()
        for entry in shelf.in_slots():
            resident.labels(entry.card.name, str(entry.card.pinned).lower()).set(1)
        return generate_latest(self._registry)
