"""Names, labels and ports on which the manifests agree with each other and with what runs in the pods."""

from typing import Any

from cluster.config.kubernetes import KubernetesConfig

Manifest = dict[str, Any]
"""One Kubernetes object, or a part of one."""

POOL_LABEL = "tidemill/pool"
"""On pods and on Ray's nodes: which pool's replicas they are for."""
COMPONENT_LABEL = "tidemill/component"
"""On pods and on Ray's nodes: `head`, `gateway`, `pool`; on other pods `submitter`, `redis`."""
CLUSTER_LABEL = "tidemill/cluster"
"""On every pod: the cluster it belongs to. KubeRay's own label changes with every cluster of a RayService."""
ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""Ray's own label for the GPU type of a node."""

GATEWAY_GROUP = "gateway"
"""The worker group of router and cache; no pool may be called so."""

GCS_PORT = 6379
DASHBOARD_PORT = 8265
CLIENT_PORT = 10001
AGENT_PORT = 52365
"""Ray's agent on every node, which answers health checks."""
METRICS_PORT = 8080
"""Ray's metrics, on every node."""
REDIS_PORT = 6379

CONFIG_FOLDER = "/etc/tidemill"
CONFIG_FILE = "tidemill.yaml"
STATE_FOLDER = "/var/lib/tidemill/state"
WEIGHTS_FOLDER = "/var/lib/tidemill/weights"
USER_ID = 1000
"""Of the images' user; Ray's official images have the same."""


def labels(kubernetes: KubernetesConfig, component: str | None = None) -> dict[str, str]:
    """Labels of an object, and of the pods of one component."""
    found = {"app.kubernetes.io/part-of": "tidemill", CLUSTER_LABEL: kubernetes.name}
    return found if component is None else {**found, COMPONENT_LABEL: component}


def selector(kubernetes: KubernetesConfig, *components: str) -> Manifest:
    """Selects the pods of some components, or all of the cluster's."""
    found: Manifest = {"matchLabels": {CLUSTER_LABEL: kubernetes.name}}
    if components:
        found["matchExpressions"] = [
            {"key": COMPONENT_LABEL, "operator": "In", "values": list(components)},
        ]
    return found


def metadata(kubernetes: KubernetesConfig, name: str) -> Manifest:
    """Metadata of an object in the cluster's namespace."""
    return {"name": name, "namespace": kubernetes.namespace, "labels": labels(kubernetes)}


def bytes_quantity(gib: float) -> str:
    """An amount of memory or storage as Kubernetes writes it."""
    return f"{gib:.0f}Gi" if gib == int(gib) else f"{gib * 1024:.0f}Mi"
