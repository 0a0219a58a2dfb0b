"""The Ray cluster: a head, a group of pods for router and cache, and one group for every pool."""

import math

from cluster.config import TidemillConfig
from cluster.config.pools import PoolConfig
from operators.kubernetes.images import Versions
from operators.kubernetes.names import (
    ACCELERATOR_LABEL,
    COMPONENT_LABEL,
    DASHBOARD_PORT,
    GATEWAY_GROUP,
    METRICS_PORT,
    POOL_LABEL,
    REDIS_PORT,
    Manifest,
    metadata,
)
from operators.kubernetes.pods import container_security, gateway_pod, head_pod, node_config, pool_pod

_KINDS_WITHOUT_MODEL = frozenset({"cpu", "gpu"})
"""GPU types that name no particular hardware, which Ray has no label for."""


def ray_cluster(config: TidemillConfig, versions: Versions) -> Manifest:
    """The RayCluster object."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": metadata(config.kubernetes, config.kubernetes.name),
        "spec": ray_cluster_spec(config, versions),
    }


def ray_cluster_spec(config: TidemillConfig, versions: Versions) -> Manifest:
    """What RayCluster and RayService have in common."""
    kubernetes = config.kubernetes
    spec: Manifest = {
        "rayVersion": versions.ray,
        "authOptions": {"mode": "token", "secretName": kubernetes.secrets.ray_token},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": kubernetes.idle_timeout_s,
            "securityContext": container_security(),
            "resources": {
                "requests": {"cpu": "200m", "memory": "512Mi"},
                "limits": {"memory": "512Mi"},
            },
        },
        "headGroupSpec": {
            "rayStartParams": {
                "dashboard-host": "0.0.0.0",  # noqa: S104 - a pod's port; the network policy says who may come
                "dashboard-port": str(DASHBOARD_PORT),
                "metrics-export-port": str(METRICS_PORT),
            },
            "resources": {"CPU": "0"},
            "labels": {COMPONENT_LABEL: "head"},
            "template": head_pod(config, versions),
        },
        "workerGroupSpecs": [
            _gateway_group(config, versions),
            *(_pool_group(config, name, versions) for name in config.pools),
        ],
    }
    if kubernetes.redis is not None:
        address = kubernetes.redis.address or f"{kubernetes.name}-redis:{REDIS_PORT}"
        password = {"name": kubernetes.redis.password.name, "key": kubernetes.redis.password.key}
        spec["gcsFaultToleranceOptions"] = {
            "backend": "redis",
            "redisAddress": address,
            "redisPassword": {"valueFrom": {"secretKeyRef": password}},
        }
    return spec


def _gateway_group(config: TidemillConfig, versions: Versions) -> Manifest:
    """A pod for every router; the autoscaler leaves their number alone."""
    count = config.gateway.router_replicas
    return {
        "groupName": GATEWAY_GROUP,
        "replicas": count,
        "minReplicas": count,
        "maxReplicas": count,
        "rayStartParams": _start_params(),
        "resources": {"CPU": str(config.kubernetes.gateway.cpus)},
        "labels": {COMPONENT_LABEL: GATEWAY_GROUP},
        "template": gateway_pod(config, versions),
    }


def _pool_group(config: TidemillConfig, name: str, versions: Versions) -> Manifest:
    """As many pods as the pool may have replicas; each offers Ray what one replica needs."""
    pool = config.pools[name]
    labels = {**pool.resources.node_labels, COMPONENT_LABEL: "pool", POOL_LABEL: name}
    if pool.gpu_type not in _KINDS_WITHOUT_MODEL:
        labels.setdefault(ACCELERATOR_LABEL, pool.gpu_type)
    return {
        "groupName": name,
        "replicas": pool.replicas.start,
        "minReplicas": pool.replicas.min,
        "maxReplicas": pool.replicas.max,
        "priority": node_config(config.kubernetes, pool).preference,
        "rayStartParams": _start_params(),
        "resources": _offered(pool),
        "labels": labels,
        "template": pool_pod(config, name, versions),
    }


def _start_params() -> dict[str, str]:
    return {"metrics-export-port": str(METRICS_PORT)}


def _offered(pool: PoolConfig) -> dict[str, str]:
    """Ray's resources of one pod. Ray finds out by itself which accelerator a GPU is."""
    resources = pool.resources
    found = {"CPU": str(math.ceil(resources.cpus))}
    if resources.gpus:
        found["GPU"] = str(int(resources.gpus))
    if resources.memory_bytes:
        found["memory"] = str(resources.memory_bytes)
    found |= {
        name: f"{amount:g}"
        for name, amount in resources.custom.items()
        if not name.startswith("accelerator_type:")
    }
    return found
