"""What Prometheus is to scrape of a running cluster, in the form of its HTTP service discovery."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from cluster.entities.pool import ReplicaReport
from deployments.messages import ROUTER, SEMANTIC_CACHE, ServiceReport

_JOBS = {ROUTER: "tidemill-router", SEMANTIC_CACHE: "tidemill-cache"}


def target_groups(
    replicas: Iterable[ReplicaReport], services: Iterable[ServiceReport]
) -> list[dict[str, Any]]:
    """A group for every process; what is in `labels` becomes labels of its series.

    An engine's port has vLLM's own series, and those of the pager of adapters if there is one.
    """
    groups = [
        _group(service.url, {"job": _JOBS[service.service], "replica": service.replica_id})
        for service in services
        if service.service in _JOBS
    ]
    groups += [
        _group(
            replica.url,
            {
                "job": "vllm",
                "replica": replica.replica_id,
                "pool": replica.pool,
                "model": replica.model,
                "role": replica.role.value,
                "gpu_type": replica.gpu_type,
            },
        )
        for replica in replicas
    ]
    return sorted(groups, key=lambda group: (group["labels"]["job"], group["labels"]["replica"]))


def _group(url: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"targets": [urlsplit(url).netloc], "labels": labels}
