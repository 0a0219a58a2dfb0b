"""The RayService variant: KubeRay itself deploys the applications, and brings up a second cluster for changes
that pods must be made anew for, to which requests move step by step.
"""

import yaml

from cluster.config import TidemillConfig
from operators.kubernetes.images import Versions
from operators.kubernetes.names import Manifest, metadata
from operators.kubernetes.ray_cluster import ray_cluster_spec
from operators.kubernetes.resolved import declared

IMPORT_PATH = "operators.serve_applications:build"
"""What Serve calls for every application, with its arguments."""


def ray_service(config: TidemillConfig, versions: Versions) -> Manifest:
    """The RayService object."""
    upgrade = config.kubernetes.upgrade
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata(config.kubernetes, config.kubernetes.name),
        "spec": {
            "serveConfigV2": yaml.safe_dump(serve_config(config), sort_keys=False, width=100),
            "upgradeStrategy": {
                "type": "NewClusterWithIncrementalUpgrade",
                "clusterUpgradeOptions": {
                    "gatewayClassName": upgrade.gateway_class,
                    "maxSurgePercent": upgrade.max_surge_percent,
                    "stepSizePercent": upgrade.step_percent,
                    "intervalSeconds": upgrade.interval_s,
                },
            },
            # No replica runs on the head, so its ingress would only be a detour.
            "excludeHeadPodFromServeSvc": True,
            "rayClusterConfig": ray_cluster_spec(config, versions),
        },
    }


def serve_config(config: TidemillConfig) -> Manifest:
    """What Serve's REST interface is told: the applications that `deployments.app` builds."""
    # Brings Ray along, which takes seconds and is needed for this variant only.
    from deployments.app import (  # noqa: PLC0415
        CACHE_APPLICATION,
        GATEWAY_APPLICATION,
        GATEWAY_LOGGING,
        LOGGING,
        pool_application_name,
    )

    description = declared(config)
    parts: dict[str, Manifest] = {
        pool_application_name(name): {"external_scaler_enabled": True, "args": {"pool": name}}
        for name in config.pools
    }
    if config.semantic_cache.enabled:
        parts[CACHE_APPLICATION] = {"args": {"part": CACHE_APPLICATION}}
    parts[GATEWAY_APPLICATION] = {
        "route_prefix": "/",
        "args": {"part": GATEWAY_APPLICATION},
        "logging_config": dict(GATEWAY_LOGGING),
    }
    applications = [
        {
            "name": name,
            "route_prefix": None,
            "import_path": IMPORT_PATH,
            "logging_config": dict(LOGGING),
            **part,
            "args": {**part["args"], "config": description},
        }
        for name, part in parts.items()
    ]
    return {
        "http_options": {"host": config.gateway.host, "port": config.gateway.port},
        "applications": applications,
    }
