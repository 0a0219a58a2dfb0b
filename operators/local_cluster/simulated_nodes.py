"""Nodes that come and go on one machine, by Ray's own autoscaler and its fake provider.

The provider is Ray's test double for a cloud: it starts and stops Ray nodes as processes. All above it, the
autoscaler, the scheduler and Serve, is what runs in a cloud.
"""

import json
from pathlib import Path
from typing import Any

from cluster.config.local_cluster import LocalClusterConfig

_HEAD_NODE_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
"""`ray.cluster_utils.FAKE_HEAD_NODE_ID`; importing that module would start nothing, but takes seconds."""
_HEAD_TYPE = "ray.head.default"
"""The provider's own name for it."""
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


def autoscaling_environment() -> dict[str, str]:
    """What the head must have in its environment."""
    return {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": _HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }


def autoscaling_config(config: LocalClusterConfig, *, cpus: int) -> dict[str, Any]:
    """The autoscaler's configuration, written out whole because Ray's package lacks its example.

    Args:
        config: kinds of nodes.
        cpus: what the head offers.
    """
    types: dict[str, Any] = {
        _HEAD_TYPE: {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    }
    for name, kind in config.simulated_nodes.items():
        types[name] = {
            "resources": {"CPU": kind.cpus, **kind.resources},
            "labels": dict(kind.labels),
            "node_config": {},
            "min_workers": 0,
            "max_workers": kind.max,
        }
    return {
        "cluster_name": "tidemill",
        "max_workers": sum(kind.max for kind in config.simulated_nodes.values()),
        "provider": {
            "type": "external",
            "module": _PROVIDER,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": _HEAD_NODE_ID,
            "gcs_address": f"127.0.0.1:{config.gcs_port}",
        },
        "available_node_types": types,
        "head_node_type": _HEAD_TYPE,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": config.simulated_nodes_idle_s / 60.0,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def write_autoscaling_config(config: LocalClusterConfig, folder: Path, *, cpus: int) -> Path:
    """Write it where `ray start` reads it (JSON is YAML)."""
    path = folder / "autoscaling.json"
    path.write_text(json.dumps(autoscaling_config(config, cpus=cpus), indent=1), encoding="utf-8")
    return path
