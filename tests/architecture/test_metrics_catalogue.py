"""The catalogue obeys Prometheus' conventions, and its metrics can be exported."""

import re
from inspect import getmembers, ismodule

import prometheus_client
import pytest

from cluster import metrics
from cluster.metrics import CATALOGUE, Metric

COUNTED = ("requests", "replicas", "entries", "waiters", "errors", "degraded", "tenants", "reasons")
KINDS = {
    "counter": prometheus_client.Counter,
    "gauge": prometheus_client.Gauge,
    "histogram": prometheus_client.Histogram,
}
# Labels whose values come from requests would let clients make time series without end.
BOUNDED = {
    "tidemill_tenant_energy_joules_total",
    "tidemill_tenant_requests_total",
    "tidemill_tenant_tokens_total",
    "tidemill_tenant_cost_usd_total",
    "tidemill_tenant_budget_used_ratio",
}
"""Tenants beyond `telemetry.tenants_max` are one series; where keys are asked for, they are configured."""
UNBOUNDED_LABELS = {"tenant", "user", "session", "request_id", "decision_id", "prompt", "key"}

each_metric = pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)


@each_metric
def test_the_name_is_lower_case_with_prefix_and_unit(metric):
    assert re.fullmatch(r"tidemill_[a-z][a-z0-9_]*[a-z0-9]", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    if metric.kind == "histogram":
        assert metric.name.endswith(("_seconds", "_bytes", "_tokens", "_joules", "_ratio"))
    if metric.kind == "gauge":
        in_unit = metric.name.endswith(("_seconds", "_bytes", "_ratio", "_watts", "_joules"))
        assert in_unit or any(noun in metric.name.split("_") for noun in COUNTED)
    assert not re.search(r"_(ms|us|milliseconds|minutes|kb|mb|gb|percent)(_|$)", metric.name)


@each_metric
def test_help_labels_and_buckets_are_sound(metric):
    assert metric.help.endswith(".")
    assert len(set(metric.labels)) == len(metric.labels)
    assert all(
        re.fullmatch(r"[a-z][a-z_]*", label) and label not in ("le", "quantile") for label in metric.labels
    )
    assert metric.name in BOUNDED or not UNBOUNDED_LABELS & set(metric.labels)
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert list(metric.buckets) == sorted(set(metric.buckets))


@each_metric
def test_it_can_be_exported_under_its_name(metric):
    registry = prometheus_client.CollectorRegistry()
    extra = {"buckets": metric.buckets} if metric.kind == "histogram" else {}
    exported = KINDS[metric.kind](metric.name, metric.help, metric.labels, registry=registry, **extra)
    if metric.labels:
        exported.labels(*("x" for _ in metric.labels))
    text = prometheus_client.generate_latest(registry).decode()
    assert re.search(rf"^{metric.name}(_bucket)?(\{{| )", text, re.MULTILINE)


def test_every_metric_is_in_the_catalogue_once():
    areas = [area for _, area in getmembers(metrics, ismodule)]
    defined = [value for area in areas for _, value in getmembers(area) if isinstance(value, Metric)]
    assert len(defined) == len(CATALOGUE)
    assert set(defined) == set(CATALOGUE)
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)
