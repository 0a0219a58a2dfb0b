"""All manifests of a cluster, by file, with the kustomization that names them."""

from collections.abc import Mapping
from typing import Any

import yaml

from cluster.config import TidemillConfig
from operators.kubernetes.access import access
from operators.kubernetes.disruption import disruption_budgets
from operators.kubernetes.images import Versions
from operators.kubernetes.names import Manifest
from operators.kubernetes.network import ingress, network_policies, service
from operators.kubernetes.ray_cluster import ray_cluster
from operators.kubernetes.ray_job import deployment
from operators.kubernetes.ray_service import ray_service
from operators.kubernetes.redis import redis
from operators.kubernetes.resolved import resolved
from operators.kubernetes.storage import claims

KUSTOMIZATION = "kustomization.yaml"
_WIDTH = 110


def manifests(config: TidemillConfig, versions: Versions) -> dict[str, list[Manifest]]:
    """The objects of a cluster by file name.

    Raises:
        ConfigError: the configuration cannot run on Kubernetes.
    """
    there = resolved(config)
    kubernetes = there.kubernetes
    found = {
        "access.yaml": access(kubernetes),
        "storage.yaml": claims(kubernetes),
        "redis.yaml": redis(kubernetes),
        "network.yaml": network_policies(there),
        "disruption.yaml": disruption_budgets(there),
    }
    if kubernetes.workload == "rayservice":
        found["ray-service.yaml"] = [ray_service(there, versions)]
    else:
        outside = [ingress(there)] if kubernetes.ingress.host is not None else []
        found["gateway.yaml"] = [service(there), *outside]
        found["ray-cluster.yaml"] = [ray_cluster(there, versions)]
        found["deployment.yaml"] = deployment(there, versions)
    return {name: objects for name, objects in found.items() if objects}


def rendered(objects: Mapping[str, list[Manifest]], *, origin: str) -> dict[str, str]:
    """The files of a folder that kustomize builds.

    Args:
        objects: by file name.
        origin: the configuration's name, for those who find the files.
    """
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(objects),
    }
    texts = {name: text_of(entries, origin=origin) for name, entries in objects.items()}
    return {KUSTOMIZATION: text_of([kustomization], origin=origin), **texts}


def text_of(objects: list[Any], *, origin: str) -> str:
    """YAML that says where it comes from."""
    head = f"# Rendered by `tidemill render` from {origin}: change that file, then render again.\n"
    return head + yaml.dump_all(
        objects, Dumper=_Dumper, sort_keys=False, width=_WIDTH, allow_unicode=True, explicit_start=True
    )


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
