"""How requests come in, and who may talk to whom; what is not allowed here is forbidden."""

import math
from collections.abc import Iterator
from urllib.parse import urlsplit

from cluster.config import TidemillConfig
from cluster.config.kubernetes import KubernetesConfig
from operators.kubernetes.names import (
    DASHBOARD_PORT,
    METRICS_PORT,
    REDIS_PORT,
    Manifest,
    labels,
    metadata,
    selector,
)
from operators.kubernetes.resolved import needs_download

RAY = ("head", "gateway", "pool")
"""Components with a Ray node in them. Ray, engines and NIXL choose ports among each other freely."""
_OPERATOR = {"app.kubernetes.io/component": "kuberay-operator"}
"""Its Helm chart and its kustomization agree on this label only."""
_NAMESPACE = "kubernetes.io/metadata.name"
_DEFAULT_PORTS = {"http": 80, "https": 443, "redis": REDIS_PORT, "rediss": REDIS_PORT}
_NODE_LOCAL_DNS = "169.254.20.10/32"
"""Where the name server of a node answers, on clusters that have one on every node."""
_PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]


def service(config: TidemillConfig) -> Manifest:
    """Where clients in the Kubernetes cluster reach the gateway. A RayService brings its own."""
    kubernetes = config.kubernetes
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(kubernetes, f"{kubernetes.name}-gateway"),
        "spec": {
            "selector": labels(kubernetes, "gateway"),
            "ports": [{"name": "http", "port": config.gateway.port, "targetPort": "serve"}],
        },
    }


def ingress(config: TidemillConfig) -> Manifest:
    """Where clients from outside reach it."""
    kubernetes = config.kubernetes
    wanted = kubernetes.ingress
    port = {"name": f"{kubernetes.name}-gateway", "port": {"name": "http"}}
    paths = [
        {"path": path, "pathType": "Prefix", "backend": {"service": port}}
        for path in dict.fromkeys(wanted.paths)
    ]
    tls = {"tls": [{"hosts": [wanted.host], "secretName": wanted.tls_secret}]} if wanted.tls_secret else {}
    found = metadata(kubernetes, f"{kubernetes.name}-gateway")
    found["annotations"] = {**_stream_annotations(config), **wanted.annotations}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": found,
        "spec": {
            "ingressClassName": wanted.class_name,
            **tls,
            "rules": [{"host": wanted.host, "http": {"paths": paths}}],
        },
    }


def _stream_annotations(config: TidemillConfig) -> dict[str, str]:
    """Tokens pass as they come, and as long as the gateway lets them."""
    if config.kubernetes.ingress.class_name != "nginx":
        return {}
    patience = str(math.ceil(config.gateway.request_timeout_s) + 60)
    prefix = "nginx.ingress.kubernetes.io"
    return {
        f"{prefix}/proxy-body-size": str(config.gateway.body_bytes_max),
        f"{prefix}/proxy-buffering": "off",
        f"{prefix}/proxy-read-timeout": patience,
        f"{prefix}/proxy-send-timeout": patience,
    }


def network_policies(config: TidemillConfig) -> list[Manifest]:
    """One policy for each relation; they add up."""
    kubernetes = config.kubernetes
    found = [
        _policy(
            kubernetes,
            "ray",
            RAY,
            ingress=[{"from": [_pods(kubernetes, *RAY)]}],
            egress=[{"to": [_pods(kubernetes, *RAY)]}],
        ),
        _policy(kubernetes, "dns", (*RAY, "submitter"), egress=[_dns()]),
        _policy(kubernetes, "head", ("head",), ingress=_to_head(config), egress=[_ports(443, 6443)]),
        _policy(
            kubernetes,
            "submitter",
            ("submitter",),
            ingress=[],
            egress=[{"to": [_pods(kubernetes, "head")], **_ports(DASHBOARD_PORT)}],
        ),
        _policy(
            kubernetes,
            "metrics",
            RAY,
            ingress=[
                {
                    "from": [_namespace(kubernetes.monitoring_namespace)],
                    **_ports(METRICS_PORT, config.local_cluster.haproxy_metrics_port),
                }
            ],
        ),
    ]
    clients = _clients(config)
    found.append(_policy(kubernetes, "gateway", ("gateway",), ingress=clients))
    if needs_download(config):
        weights = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": _PRIVATE}}], **_ports(443)}
        found.append(_policy(kubernetes, "weights", ("head", "pool"), egress=[weights]))
    found += [
        _policy(kubernetes, f"to-{name}", components, egress=[_ports(_port_of(url))])
        for name, components, url in _servers(config)
    ]
    return [*found, *_redis_policies(kubernetes)]


def _servers(config: TidemillConfig) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Servers of others that the configuration names, and who talks to them. Where they run is not known."""
    documents, store = config.semantic_cache.semantic.documents, config.tenants.store
    if config.semantic_cache.semantic.enabled and documents.kind == "redis":
        yield "documents", ("gateway",), documents.redis_url
    if config.tenants.enabled and store.kind == "redis":
        yield "tenants", ("gateway",), store.redis_url
    if config.adapters.s3.endpoint_url is not None:
        yield "adapters", ("head", "pool"), config.adapters.s3.endpoint_url
    if config.tracing.endpoint:
        yield "tracing", RAY, config.tracing.endpoint


def _port_of(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or _DEFAULT_PORTS[parts.scheme]


def _to_head(config: TidemillConfig) -> list[Manifest]:
    """The KubeRay operator asks the dashboard, and so does the pod that submits the job."""
    operator = {"namespaceSelector": {}, "podSelector": {"matchLabels": _OPERATOR}}
    if config.kubernetes.workload == "rayservice":  # and whether the head's ingress is healthy
        return [{"from": [operator], **_ports(DASHBOARD_PORT, config.gateway.port)}]
    return [{"from": [operator, _pods(config.kubernetes, "submitter")], **_ports(DASHBOARD_PORT)}]


def _clients(config: TidemillConfig) -> list[Manifest]:
    kubernetes = config.kubernetes
    namespaces = [*kubernetes.client_namespaces, kubernetes.monitoring_namespace]
    if kubernetes.ingress.host is not None or kubernetes.workload == "rayservice":
        namespaces.append(kubernetes.ingress.controller_namespace)
    return [{"from": [_namespace(name) for name in namespaces], **_ports(config.gateway.port)}]


def _redis_policies(kubernetes: KubernetesConfig) -> list[Manifest]:
    if kubernetes.redis is None:
        return []
    if kubernetes.redis.address is not None:
        port = int(kubernetes.redis.address.rpartition(":")[2])
        return [_policy(kubernetes, "to-redis", ("head",), egress=[_ports(port)])]
    return [
        _policy(
            kubernetes,
            "to-redis",
            ("head",),
            egress=[{"to": [_pods(kubernetes, "redis")], **_ports(REDIS_PORT)}],
        ),
        _policy(
            kubernetes,
            "redis",
            ("redis",),
            ingress=[{"from": [_pods(kubernetes, "head")], **_ports(REDIS_PORT)}],
            egress=[],
        ),
    ]


def _policy(
    kubernetes: KubernetesConfig,
    name: str,
    components: tuple[str, ...],
    *,
    ingress: list[Manifest] | None = None,
    egress: list[Manifest] | None = None,
) -> Manifest:
    directions = {"Ingress": ingress, "Egress": egress}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(kubernetes, f"{kubernetes.name}-{name}"),
        "spec": {
            "podSelector": selector(kubernetes, *components),
            "policyTypes": [kind for kind, rules in directions.items() if rules is not None],
            **({} if ingress is None else {"ingress": ingress}),
            **({} if egress is None else {"egress": egress}),
        },
    }


def _pods(kubernetes: KubernetesConfig, *components: str) -> Manifest:
    return {"podSelector": selector(kubernetes, *components)}


def _namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE: name}}}


def _ports(*ports: int) -> Manifest:
    return {"ports": [{"protocol": "TCP", "port": port} for port in ports]}


def _dns() -> Manifest:
    """Answers come from the cluster's own name servers; nothing works without them."""
    both = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return {"to": [_namespace("kube-system"), {"ipBlock": {"cidr": _NODE_LOCAL_DNS}}], "ports": both}
