"""The catalogue's metrics as Prometheus has them: counted as things happen, or read off for a scrape."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from cluster.metrics import Metric


def instrument(metric: Metric, registry: CollectorRegistry) -> Any:
    """What counts a metric from now on."""
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.help, metric.labels, registry=registry)


def family(metric: Metric, values: Mapping[Any, float]) -> CounterMetricFamily | GaugeMetricFamily:
    """What a counter or gauge is at this moment, by its labels; `()` stands for one without labels."""
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    found: CounterMetricFamily | GaugeMetricFamily = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        found.add_metric(list(labels), value)
    return found
