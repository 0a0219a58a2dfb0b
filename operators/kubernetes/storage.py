"""Claims: what survives a pod."""

from cluster.config.kubernetes import ClaimConfig, KubernetesConfig
from operators.kubernetes.names import Manifest, bytes_quantity, metadata


def claims(kubernetes: KubernetesConfig) -> list[Manifest]:
    """The claims of head and engines. A RayService keeps no state between its clusters."""
    storage = kubernetes.storage
    wanted: dict[str, ClaimConfig] = {}
    if kubernetes.workload == "raycluster":
        wanted["state"] = storage.state
    if storage.weights is not None:
        wanted["weights"] = storage.weights
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata(kubernetes, f"{kubernetes.name}-{name}"),
            "spec": claim_spec(entry),
        }
        for name, entry in wanted.items()
    ]


def claim_spec(wanted: ClaimConfig) -> Manifest:
    """The specification of a claim."""
    return {
        "accessModes": [wanted.access],
        **({"storageClassName": wanted.storage_class} if wanted.storage_class else {}),
        "resources": {"requests": {"storage": bytes_quantity(wanted.size_gib)}},
    }
