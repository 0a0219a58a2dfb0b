"""What pods may ask of the API server: the head what Ray's autoscaler needs, all others nothing."""

from cluster.config.kubernetes import KubernetesConfig
from operators.kubernetes.names import Manifest, labels, metadata


def access(kubernetes: KubernetesConfig) -> list[Manifest]:
    """Namespace, service accounts, role and binding."""
    head = f"{kubernetes.name}-head"
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": kubernetes.namespace,
                "labels": {
                    "app.kubernetes.io/part-of": labels(kubernetes)["app.kubernetes.io/part-of"],
                    "pod-security.kubernetes.io/enforce": "baseline",
                    "pod-security.kubernetes.io/warn": "restricted",
                },
            },
        },
        _service_account(kubernetes, "head"),
        _service_account(kubernetes, "worker"),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata(kubernetes, head),
            "rules": _autoscaler_rules(kubernetes),
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata(kubernetes, head),
            "subjects": [{"kind": "ServiceAccount", "name": head, "namespace": kubernetes.namespace}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": head},
        },
    ]


def _service_account(kubernetes: KubernetesConfig, component: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(kubernetes, f"{kubernetes.name}-{component}"),
        "automountServiceAccountToken": False,
    }


def _autoscaler_rules(kubernetes: KubernetesConfig) -> list[Manifest]:
    """What KubeRay 1.7 gives the autoscaler (its `common/rbac.go`), narrowed to this RayCluster.

    The RayClusters of a RayService have generated names, which no rule can know.
    """
    clusters: Manifest = {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "patch"]}
    if kubernetes.workload == "raycluster":
        clusters["resourceNames"] = [kubernetes.name]
    return [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": [""], "resources": ["pods/resize"], "verbs": ["patch"]},
        clusters,
    ]
