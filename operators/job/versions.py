"""Which version of the configuration each part of a cluster has, so that a job rolls only what changed.

A part's version is a hash of everything it reads. What is left out is listed here by name: a section that is
added to the configuration later counts for every part until somebody says otherwise.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cluster.config import TidemillConfig
from deployments.app import CACHE_APPLICATION, GATEWAY_APPLICATION, application_names, pool_application_name

DIRECTORY = "actor:directory"
LEARNER = "actor:learner"
PROVISIONER = "actor:provisioner"
COORDINATOR = "actor:coordinator"
"""Of adapters."""

_LOCAL = frozenset({"local_cluster", "kubernetes"})
_OF_ROUTERS = frozenset(
    {"gateway", "routing", "decision_log", "telemetry", "provisioning", "logging", "status_page", "tenants"}
)
"""What engines and the cache have no use for."""
_SIZE = ("replicas",)
"""Of a pool: only the provisioner reads it; a pool that runs keeps the size it has."""
_ENGINE_ONLY = ("engine", "resources", "drain_timeout_s", "health_period_s", "health_timeout_s")
"""Of a pool: what routers have no use for, unless they choose models."""
_PROMISES = frozenset(
    {"aliases", "slo", "price_usd_per_million_input_tokens", "price_usd_per_million_output_tokens"}
)
"""Of a model: what its engines have no use for."""


def part_versions(
    config: TidemillConfig, *, code: str, environment: Mapping[str, str], secrets: Mapping[str, str]
) -> dict[str, str]:
    """The version of every application and actor.

    Args:
        config: what is wanted.
        code: hash of the code.
        environment: what replicas get in theirs.
        secrets: what the gateway is told beside the configuration; only their hashes are kept.
    """
    whole = config.model_dump(mode="json")
    common = {"code": code, "environment": dict(environment)}
    versions = {
        pool_application_name(name): _digest(common | _read_by_pool(config, whole, name))
        for name in config.pools
    }
    # To choose a model, routers predict what each pool takes from its engine's settings.
    unread = {*_SIZE, *(() if config.routes_models else _ENGINE_ONLY)}
    gateway = _without(whole, _LOCAL | {"provisioning"}) | {
        "prompt_bands": whole["provisioning"]["prompt_bands"],
        "pools": {name: _without(pool, unread) for name, pool in whole["pools"].items()},
    }
    cache = _without(whole, _LOCAL | _OF_ROUTERS | {"models", "pools"}) | {
        "body_bytes_max": whole["gateway"]["body_bytes_max"],
        "reads_texts": config.routes_models,
    }
    versions[CACHE_APPLICATION] = _digest(common | cache)
    versions[GATEWAY_APPLICATION] = _digest(common | gateway | {"secrets": dict(secrets)})
    versions[DIRECTORY] = _digest(common)
    versions[LEARNER] = _digest(common | _without(whole, _LOCAL | {"pools", "provisioning"}))
    versions[PROVISIONER] = _digest(common | _without(whole, _LOCAL))
    versions[COORDINATOR] = _digest(common | _without(whole, _LOCAL | _OF_ROUTERS))
    wanted = {*application_names(config), DIRECTORY, PROVISIONER}
    if config.routes_models:
        wanted.add(LEARNER)
    if any(pool.adapters is not None for pool in config.pools.values()):
        wanted.add(COORDINATOR)
    return {part: version for part, version in versions.items() if part in wanted}


def _read_by_pool(config: TidemillConfig, whole: dict[str, Any], name: str) -> dict[str, Any]:
    pool = config.pools[name]
    return _without(whole, _LOCAL | _OF_ROUTERS | {"models", "pools", "semantic_cache"}) | {
        "pool": _without(whole["pools"][name], set(_SIZE)),
        "model": _without(whole["models"][pool.model], _PROMISES),
        "split": config.is_split(pool.model),
        "media_domains": whole["gateway"]["allowed_media_domains"],
    }


def _without(section: Mapping[str, Any], names: frozenset[str] | set[str]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name not in names}


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
