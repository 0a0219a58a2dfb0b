"""The job that deploys: it carries the configuration into the cluster and runs the operators' entry point.

Job and ConfigMap have a digest of the configuration in their names. A changed configuration is therefore a
new job, which KubeRay runs; a finished one it would never run again.
"""

import hashlib

import yaml

from cluster.config import TidemillConfig
from operators.kubernetes.images import Versions, image
from operators.kubernetes.names import (
    CONFIG_FILE,
    CONFIG_FOLDER,
    USER_ID,
    Manifest,
    labels,
    metadata,
)
from operators.kubernetes.pods import container_security
from operators.kubernetes.resolved import declared

_DIGEST_CHARACTERS = 10
_SLACK_S = 600
"""Kubernetes ends the job so much later than it gives up itself and says why: its clock runs from the
RayJob's first moment, while the submitter's pod finds a node and pulls its image."""


def config_text(config: TidemillConfig) -> str:
    """The configuration as the job reads it; the same for equal configurations."""
    return yaml.safe_dump(declared(config), sort_keys=False, width=100, allow_unicode=True)


def deployment(config: TidemillConfig, versions: Versions) -> list[Manifest]:
    """ConfigMap and RayJob."""
    kubernetes = config.kubernetes
    text = config_text(config)
    digest = hashlib.sha256(f"{versions.tag}\n{text}".encode()).hexdigest()[:_DIGEST_CHARACTERS]
    config_map = f"{kubernetes.name}-config-{digest}"
    job: Manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata(kubernetes, f"{kubernetes.name}-{digest}"),
        "spec": {
            "clusterSelector": {"ray.io/cluster": kubernetes.name},
            "submissionMode": "K8sJobMode",
            # The folder is uploaded by the submitter, so that the head reads what was applied with this job.
            "runtimeEnvYAML": f"working_dir: {CONFIG_FOLDER}\n",
            "entrypoint": f"python -m operators -c {CONFIG_FILE}",
            "backoffLimit": 0,
            "activeDeadlineSeconds": kubernetes.deploy_timeout_s + _SLACK_S,
            "submitterConfig": {"backoffLimit": 2},
            "submitterPodTemplate": _submitter(config, versions, config_map),
        },
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(kubernetes, config_map),
            "data": {CONFIG_FILE: text},
        },
        job,
    ]


def _submitter(config: TidemillConfig, versions: Versions, config_map: str) -> Manifest:
    kubernetes = config.kubernetes
    pull = kubernetes.secrets.image_pull
    mount = {"name": "config", "mountPath": f"{CONFIG_FOLDER}/{CONFIG_FILE}", "subPath": CONFIG_FILE}
    return {
        "metadata": {"labels": labels(kubernetes, "submitter")},
        "spec": {
            "serviceAccountName": f"{kubernetes.name}-worker",
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": {"fsGroup": USER_ID},
            **({"imagePullSecrets": [{"name": pull}]} if pull else {}),
            "containers": [
                {
                    "name": "ray-job-submitter",
                    "image": image(kubernetes, versions, gpu=False),
                    "imagePullPolicy": "IfNotPresent",
                    "securityContext": container_security(),
                    "resources": {
                        "requests": {"cpu": "200m", "memory": "1Gi"},
                        "limits": {"memory": "1Gi"},
                    },
                    "volumeMounts": [mount],
                }
            ],
            "volumes": [{"name": "config", "configMap": {"name": config_map}}],
        },
    }
