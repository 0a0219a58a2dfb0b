"""The one catalogue of Prometheus metrics: names, kinds, help texts, labels and buckets.

Exporters, dashboards and the documentation are made from it, so a metric that is not here does not exist.
Labels take values from closed sets (roles, reasons, configured names), never from what a client sent.
"""

from cluster.metrics import (
    adapters,
    adapters_fleet,
    fleet,
    guardrails,
    model_routing,
    objectives,
    observability,
    requests,
    semantic_cache,
    tenants,
)
from cluster.metrics.metric import Metric

AREAS: dict[str, tuple[Metric, ...]] = {
    "requests": requests.METRICS,
    "objectives": objectives.METRICS,
    "fleet": fleet.METRICS,
    "model_routing": model_routing.METRICS,
    "adapters": adapters.METRICS,
    "adapters_fleet": adapters_fleet.METRICS,
    "semantic_cache": semantic_cache.METRICS,
    "observability": observability.METRICS,
    "tenants": tenants.METRICS,
    "guardrails": guardrails.METRICS,
}
"""By area, in the order documents and dashboards show them."""

CATALOGUE: tuple[Metric, ...] = tuple(metric for area in AREAS.values() for metric in area)
"""Everything there is."""

__all__ = [
    "AREAS",
    "CATALOGUE",
    "Metric",
    "adapters",
    "adapters_fleet",
    "fleet",
    "guardrails",
    "model_routing",
    "objectives",
    "observability",
    "requests",
    "semantic_cache",
    "tenants",
]
