"""The one catalogue of Prometheus metrics: names, kinds, help texts, labels and buckets.

Exporters, dashboards and the documentation are made from it, so a metric that is not here does not exist.
Labels take values from closed sets (roles, reasons, configured names), never from what a client sent.
"""

from cluster.metrics import fleet, model_routing, observability, requests, semantic_cache
from cluster.metrics.metric import Metric

CATALOGUE: tuple[Metric, ...] = (
    *requests.METRICS,
    *fleet.METRICS,
    *model_routing.METRICS,
    *semantic_cache.METRICS,
    *observability.METRICS,
)
"""Everything there is, in the order dashboards show it."""

__all__ = ["CATALOGUE", "Metric", "fleet", "model_routing", "observability", "requests", "semantic_cache"]
