"""Pods: what Ray's containers have in common, and in what head, gateway and pools differ."""

import math

from cluster.config import TidemillConfig
from cluster.config.kubernetes import KubernetesConfig, NodeConfig, PlacementConfig, SecretRef
from cluster.config.pools import PoolConfig
from operators.kubernetes.images import Versions, image
from operators.kubernetes.names import (
    AGENT_PORT,
    CLIENT_PORT,
    DASHBOARD_PORT,
    GCS_PORT,
    METRICS_PORT,
    POOL_LABEL,
    STATE_FOLDER,
    USER_ID,
    WEIGHTS_FOLDER,
    Manifest,
    bytes_quantity,
    labels,
)
from operators.local_cluster.environment import SHORT_WAY, gateway_environment

RAY_CPUS = 1
"""Cores of a pod beside its replicas': raylet, agents and ingress."""
DRAIN_MARGIN_S = 60
"""Between the end of a drain and the kill by Kubernetes."""
SCRATCH_GIB = 20
"""What a pod that keeps nothing may write."""

_READY = """\
import http.client, sys, urllib.request
urllib.request.urlopen("http://127.0.0.1:{agent}/api/healthz", timeout=4)
serve = http.client.HTTPConnection("127.0.0.1", {serve}, timeout=4)
try:
    serve.request("GET", "/-/healthz")
except ConnectionRefusedError:
    sys.exit(0)
sys.exit(serve.getresponse().status != 200)
"""
"""A gateway pod is ready when Ray is, and Serve's ingress on it if there is one: KubeRay starts a RayJob only
when all pods are ready, so a pod in which nothing has been deployed yet must be."""


def head_pod(config: TidemillConfig, versions: Versions) -> Manifest:
    """The head: no replica runs there, so it offers Ray nothing."""
    kubernetes = config.kubernetes
    head = kubernetes.head
    container = _ray_container(
        config,
        "ray-head",
        image(kubernetes, versions, gpu=False),
        ports={"gcs-server": GCS_PORT, "dashboard": DASHBOARD_PORT, "client": CLIENT_PORT},
        resources=_pod_resources(head.cpus, head.memory_gib),
    )
    container["env"] = [*_env(config), _admin_key(config)]
    container["volumeMounts"] = _mounts()
    container |= _probes(_http_probe(), slow=True)
    volumes = [_state_volume(kubernetes), _weights_volume(kubernetes)]
    pod = _pod(kubernetes, head, container, volumes, component="head", grace_s=DRAIN_MARGIN_S)
    # The autoscaler beside Ray's container talks to the API server; nothing else in the cluster does.
    pod["spec"] |= {"serviceAccountName": f"{kubernetes.name}-head", "automountServiceAccountToken": True}
    return pod


def gateway_pod(config: TidemillConfig, versions: Versions) -> Manifest:
    """Router and cache replicas, and the ingress in front of them."""
    kubernetes = config.kubernetes
    gateway = kubernetes.gateway
    container = _ray_container(
        config,
        "ray-worker",
        image(kubernetes, versions, gpu=False),
        ports={"serve": config.gateway.port},
        resources=_pod_resources(gateway.cpus, gateway.memory_gib),
    )
    script = _READY.format(agent=AGENT_PORT, serve=config.gateway.port)
    ready = {"exec": {"command": ["python", "-c", script]}}
    container["env"] = _worker_env(config, drain_s=config.gateway.request_timeout_s)
    container["volumeMounts"] = _mounts()
    container |= _probes(_http_probe(), ready=ready)
    shared = kubernetes.storage.state.access == "ReadWriteMany"
    state = _state_volume(kubernetes) if shared else _scratch_state()
    pod = _pod(
        kubernetes,
        gateway,
        container,
        [state, _weights_volume(kubernetes)],
        component="gateway",
        grace_s=config.gateway.request_timeout_s + DRAIN_MARGIN_S,
    )
    pod["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels(kubernetes, "gateway")},
        }
    ]
    return pod


def pool_pod(config: TidemillConfig, name: str, versions: Versions) -> Manifest:
    """A pod that holds one replica of a pool, on its hardware."""
    kubernetes, pool = config.kubernetes, config.pools[name]
    node = node_config(kubernetes, pool)
    gpus = int(pool.resources.gpus)
    container = _ray_container(
        config,
        "ray-worker",
        image(kubernetes, versions, gpu=gpus > 0),
        ports={"serve": config.gateway.port},
        resources=_pod_resources(
            math.ceil(pool.resources.cpus) + RAY_CPUS,
            node.memory_gib,
            {node.gpu_resource: gpus} if gpus else {},
        ),
    )
    container["env"] = _worker_env(config, drain_s=pool.drain_timeout_s)
    container["volumeMounts"] = _mounts()
    container |= _probes(_http_probe())
    volumes = [_scratch_state(), _weights_volume(kubernetes)]
    grace_s = pool.drain_timeout_s + DRAIN_MARGIN_S
    pod = _pod(kubernetes, node, container, volumes, component="pool", grace_s=grace_s)
    pod["metadata"]["labels"] |= {
        POOL_LABEL: name,
        "tidemill/role": pool.role.value,
        "tidemill/gpu-type": pool.gpu_type,
    }
    if node.runtime_class:
        pod["spec"]["runtimeClassName"] = node.runtime_class
    return pod


def node_config(kubernetes: KubernetesConfig, pool: PoolConfig) -> NodeConfig:
    """What is said about the hardware of a pool."""
    return kubernetes.nodes.get(pool.gpu_type, NodeConfig())


def container_security() -> Manifest:
    """What no container of ours needs is taken away."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def placement(where: PlacementConfig) -> Manifest:
    """Node selector, affinity, tolerations and priority of a pod."""
    found: Manifest = {}
    if where.node_selector:
        found["nodeSelector"] = dict(where.node_selector)
    if where.node_affinity:
        terms = [
            {"key": key, "operator": "In", "values": list(values)}
            for key, values in where.node_affinity.items()
        ]
        required = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
        found["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    if where.tolerations:
        found["tolerations"] = [
            {
                "key": toleration.key,
                "operator": "Exists" if toleration.value is None else "Equal",
                **({} if toleration.value is None else {"value": toleration.value}),
                "effect": toleration.effect,
            }
            for toleration in where.tolerations
        ]
    if where.priority_class:
        found["priorityClassName"] = where.priority_class
    return found


def _pod(
    kubernetes: KubernetesConfig,
    where: PlacementConfig,
    container: Manifest,
    volumes: list[Manifest],
    *,
    component: str,
    grace_s: float,
) -> Manifest:
    pull = kubernetes.secrets.image_pull
    return {
        "metadata": {"labels": labels(kubernetes, component)},
        "spec": {
            "serviceAccountName": f"{kubernetes.name}-worker",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": math.ceil(grace_s),
            "securityContext": {"fsGroup": USER_ID, "fsGroupChangePolicy": "OnRootMismatch"},
            **({"imagePullSecrets": [{"name": pull}]} if pull else {}),
            **placement(where),
            "containers": [container],
            "volumes": volumes,
        },
    }


def _ray_container(
    config: TidemillConfig, name: str, image_name: str, *, ports: dict[str, int], resources: Manifest
) -> Manifest:
    haproxy = config.local_cluster.haproxy_metrics_port
    every = {**ports, "metrics": METRICS_PORT, "haproxy-metrics": haproxy}
    return {
        "name": name,
        "image": image_name,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": container_security(),
        "ports": [{"name": port, "containerPort": number} for port, number in every.items()],
        "resources": resources,
    }


def _pod_resources(cpus: int, memory_gib: float, gpus: dict[str, int] | None = None) -> Manifest:
    """No limit on cores: a throttled engine stalls every stream. Memory and GPUs are what was asked for."""
    held: Manifest = {"memory": bytes_quantity(memory_gib), **{k: str(v) for k, v in (gpus or {}).items()}}
    return {"requests": {"cpu": str(cpus), **held}, "limits": held}


def _env(config: TidemillConfig, *, drain_s: float = 0.0) -> list[Manifest]:
    """Environment of every Ray container; head and workers must agree on Serve's settings."""
    settings = {
        "HF_HOME": f"{WEIGHTS_FOLDER}/huggingface",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": f"{drain_s:g}",
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if config.local_cluster.haproxy else "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(config.local_cluster.haproxy_metrics_port),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",
        "TIDEMILL_CACHE": WEIGHTS_FOLDER,
        "TIDEMILL_STATE": STATE_FOLDER,
        **SHORT_WAY,
        **gateway_environment(config.gateway.request_timeout_s),
    }
    found: list[Manifest] = [{"name": name, "value": settings[name]} for name in sorted(settings)]
    secrets = config.kubernetes.secrets
    token = secrets.hugging_face_token
    given = secrets.environment | ({} if token is None else {"HF_TOKEN": token})
    return found + [_secret_env(name, given[name]) for name in sorted(given)]


def _worker_env(config: TidemillConfig, *, drain_s: float) -> list[Manifest]:
    env = _env(config, drain_s=drain_s)
    # For a RayService Serve builds the applications on any node, and the gateway's needs the key.
    return [*env, _admin_key(config)] if config.kubernetes.workload == "rayservice" else env


def _admin_key(config: TidemillConfig) -> Manifest:
    return _secret_env(config.gateway.admin_key_env, config.kubernetes.secrets.admin_key)


def _secret_env(name: str, reference: SecretRef) -> Manifest:
    return {
        "name": name,
        "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}},
    }


def _http_probe() -> Manifest:
    return {"httpGet": {"path": "/api/healthz", "port": AGENT_PORT}}


def _probes(alive: Manifest, *, ready: Manifest | None = None, slow: bool = False) -> Manifest:
    """Ray's agent answers for the node; a start may take minutes where an image is cold."""
    timing = {"periodSeconds": 5, "timeoutSeconds": 5}
    return {
        "startupProbe": {**alive, **timing, "failureThreshold": 120},
        "livenessProbe": {**alive, **timing, "failureThreshold": 24 if slow else 12},
        "readinessProbe": {**(ready or alive), **timing, "failureThreshold": 2},
    }


def _mounts() -> list[Manifest]:
    return [
        {"name": "state", "mountPath": STATE_FOLDER},
        {"name": "weights", "mountPath": WEIGHTS_FOLDER},
    ]


def _claim_volume(name: str, claim: str) -> Manifest:
    return {"name": name, "persistentVolumeClaim": {"claimName": claim}}


def _scratch_state() -> Manifest:
    return {"name": "state", "emptyDir": {"sizeLimit": bytes_quantity(SCRATCH_GIB)}}


def _state_volume(kubernetes: KubernetesConfig) -> Manifest:
    """Two clusters of a RayService stand beside each other for a while and must not share one state."""
    if kubernetes.workload == "rayservice":
        return _scratch_state()
    return _claim_volume("state", f"{kubernetes.name}-state")


def _weights_volume(kubernetes: KubernetesConfig) -> Manifest:
    if kubernetes.storage.weights is None:
        return {"name": "weights", "emptyDir": {}}
    return _claim_volume("weights", f"{kubernetes.name}-weights")
