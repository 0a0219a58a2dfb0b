"""Configurations of Prometheus that scrape a cluster: on one machine, on Kubernetes, under its operator."""

from pathlib import Path
from typing import Any

from operators.prometheus.targets import FOLDER, TARGETS_FILE

ALERTS_FILE = "alerts.yaml"
_INTERVAL = "5s"
_KUBERNETES_INTERVAL = "15s"
_RAY_PORTS = ("metrics", "haproxy-metrics")
"""Names of the containers' ports in the manifests."""
_RAY_CLUSTER_LABEL = "ray.io/cluster"

Json = dict[str, Any]


def local_config(state_dir: Path) -> Json:
    """For a Prometheus on the machine where `tidemill up` runs."""
    targets = str(state_dir / FOLDER / TARGETS_FILE)
    return {
        "global": {"scrape_interval": _INTERVAL, "evaluation_interval": _INTERVAL},
        "rule_files": [ALERTS_FILE],
        "scrape_configs": [
            {
                "job_name": "tidemill",
                "file_sd_configs": [{"files": [targets], "refresh_interval": _INTERVAL}],
            }
        ],
    }


def kubernetes_config(*, gateway_url: str, namespace: str, key_file: str) -> Json:
    """For a Prometheus inside the Kubernetes cluster.

    Routers, cache and engines have ports that nobody knows beforehand, so the gateway is asked for them.
    Ray's and HAProxy's are in the manifests.

    Args:
        gateway_url: where the gateway answers inside the cluster.
        namespace: of the Ray pods.
        key_file: file in Prometheus' container that holds the admin key.
    """
    return {
        "global": {"scrape_interval": _KUBERNETES_INTERVAL, "evaluation_interval": _KUBERNETES_INTERVAL},
        "rule_files": [ALERTS_FILE],
        "scrape_configs": [
            {
                "job_name": "tidemill",
                "http_sd_configs": [
                    {
                        "url": f"{gateway_url.rstrip('/')}/admin/targets",
                        "refresh_interval": _KUBERNETES_INTERVAL,
                        "authorization": {"type": "Bearer", "credentials_file": key_file},
                    }
                ],
            },
            *(_pods(namespace, port) for port in _RAY_PORTS),
        ],
    }


def _pods(namespace: str, port: str) -> Json:
    meta = "__meta_kubernetes_pod"
    label = _RAY_CLUSTER_LABEL.replace(".", "_").replace("/", "_")
    return {
        "job_name": "ray" if port == "metrics" else "haproxy",
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [namespace]}}],
        "relabel_configs": [
            {"source_labels": [f"{meta}_labelpresent_{label}"], "regex": "true", "action": "keep"},
            {"source_labels": [f"{meta}_container_port_name"], "regex": port, "action": "keep"},
            {"source_labels": [f"{meta}_name"], "target_label": "pod"},
            {"source_labels": [f"{meta}_node_name"], "target_label": "node"},
        ],
    }


def operator_objects(
    *, gateway_url: str, namespace: str, secret: str, secret_key: str, rules: Json
) -> list[Json]:
    """For the Prometheus operator: PodMonitor, ScrapeConfig and PrometheusRule."""
    return [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": {"name": "tidemill-ray", "namespace": namespace},
            "spec": {
                "selector": {"matchExpressions": [{"key": _RAY_CLUSTER_LABEL, "operator": "Exists"}]},
                "podMetricsEndpoints": [
                    {
                        "port": port,
                        "interval": _KUBERNETES_INTERVAL,
                        "relabelings": [
                            {"targetLabel": "job", "replacement": "ray" if port == "metrics" else "haproxy"}
                        ],
                    }
                    for port in _RAY_PORTS
                ],
            },
        },
        {
            "apiVersion": "monitoring.coreos.com/v1alpha1",
            "kind": "ScrapeConfig",
            "metadata": {"name": "tidemill", "namespace": namespace},
            "spec": {
                "scrapeInterval": _KUBERNETES_INTERVAL,
                "httpSDConfigs": [
                    {
                        "url": f"{gateway_url.rstrip('/')}/admin/targets",
                        "refreshInterval": _KUBERNETES_INTERVAL,
                        "authorization": {
                            "type": "Bearer",
                            "credentials": {"name": secret, "key": secret_key},
                        },
                    }
                ],
            },
        },
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "tidemill", "namespace": namespace},
            "spec": rules,
        },
    ]
