"""How many pods Kubernetes may take away at a time when nodes are drained."""

from cluster.config import TidemillConfig
from operators.kubernetes.names import POOL_LABEL, Manifest, labels, metadata


def disruption_budgets(config: TidemillConfig) -> list[Manifest]:
    """One for every group that always has two pods or more: one of them may go.

    A single pod gets none: a budget would only keep its node from ever being drained. `minAvailable` in
    pods is the only form that Kubernetes takes for pods whose owner it does not know how to scale.
    """
    kubernetes = config.kubernetes
    sizes = {"gateway": config.gateway.router_replicas} | {
        name: pool.replicas.min for name, pool in config.pools.items()
    }
    return [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(kubernetes, f"{kubernetes.name}-{group}"),
            "spec": {
                "minAvailable": size - 1,
                "selector": {
                    "matchLabels": labels(kubernetes, "gateway")
                    if group == "gateway"
                    else {**labels(kubernetes, "pool"), POOL_LABEL: group}
                },
            },
        }
        for group, size in sizes.items()
        if size > 1
    ]
