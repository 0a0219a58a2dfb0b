"""Redis behind Ray's control store, where the configuration names none that exists."""

from cluster.config.kubernetes import KubernetesConfig
from operators.kubernetes.names import REDIS_PORT, USER_ID, Manifest, labels, metadata
from operators.kubernetes.pods import container_security
from operators.kubernetes.storage import claim_spec

IMAGE = "redis:7.2.11-bookworm"
"""The last line of Redis under the BSD licence."""
_START = 'exec redis-server --appendonly yes --dir /data --requirepass "$REDIS_PASSWORD"'
_PING = 'redis-cli --no-auth-warning -a "$REDIS_PASSWORD" ping | grep -q PONG'


def redis(kubernetes: KubernetesConfig) -> list[Manifest]:
    """Service and StatefulSet; nothing if there is another Redis, or none is wanted."""
    wanted = kubernetes.redis
    if wanted is None or wanted.address is not None:
        return []
    name = f"{kubernetes.name}-redis"
    ports = [{"name": "redis", "port": REDIS_PORT, "targetPort": "redis"}]
    key = {"name": wanted.password.name, "key": wanted.password.key}
    probe = {"exec": {"command": ["sh", "-c", _PING]}, "periodSeconds": 10, "timeoutSeconds": 5}
    container: Manifest = {
        "name": "redis",
        "image": IMAGE,
        "command": ["sh", "-c", _START],
        "env": [{"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": key}}],
        "ports": [{"name": "redis", "containerPort": REDIS_PORT}],
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {**container_security(), "readOnlyRootFilesystem": True},
        "livenessProbe": {**probe, "failureThreshold": 6},
        "readinessProbe": probe,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod: Manifest = {
        "metadata": {"labels": labels(kubernetes, "redis")},
        "spec": {
            "serviceAccountName": f"{kubernetes.name}-worker",
            "automountServiceAccountToken": False,
            "securityContext": {"fsGroup": USER_ID},
            "containers": [container],
        },
    }
    service: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(kubernetes, name),
        "spec": {"clusterIP": "None", "selector": labels(kubernetes, "redis"), "ports": ports},
    }
    return [
        service,
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": metadata(kubernetes, name),
            "spec": {
                "serviceName": name,
                "replicas": 1,
                "selector": {"matchLabels": labels(kubernetes, "redis")},
                "template": pod,
                "volumeClaimTemplates": [
                    {"metadata": {"name": "data"}, "spec": claim_spec(wanted.storage)},
                ],
            },
        },
    ]
