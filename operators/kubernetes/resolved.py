"""The configuration as it runs on Kubernetes: what follows from being there is filled in, the rest checked.

Pools get the label of their own worker group, router and cache that of theirs: so a pool's replicas can be
nowhere but in its group, and the group's size is the pool's.
"""

import re
from typing import Any
from urllib.parse import urlsplit

from cluster.config import ConfigError, TidemillConfig, check_config
from cluster.config.pools import PoolConfig
from operators.kubernetes.names import COMPONENT_LABEL, GATEWAY_GROUP, POOL_LABEL
from operators.provisioner.pool_check import check_pools

_GROUP_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_LABEL_CHARACTERS_MAX = 63
_ON_THE_MACHINE = re.compile(r"[/.~]|package:|recipe:")
_OWN_VARIABLES = ("RAY_", "TIDEMILL_", "HF_")
"""Beginnings of sources that are on the machine already."""


def resolved(config: TidemillConfig) -> TidemillConfig:
    """The configuration that the job deploys.

    Raises:
        ConfigError: a pool cannot become a worker group; the message says why.
    """
    data = declared(config)
    gateway = data.setdefault("gateway", {})
    gateway["host"] = "0.0.0.0"  # noqa: S104 - a pod's port is reached from outside it
    if config.tenants.enabled:
        _check_tenants(config)
    # Nodes, images and weights come first; the job has its own limit and waits within it.
    data.setdefault("local_cluster", {}).setdefault(
        "start_timeout_s", float(config.kubernetes.deploy_timeout_s)
    )
    for section in ("gateway", "semantic_cache"):
        data.setdefault(section, {}).setdefault("node_labels", {})[COMPONENT_LABEL] = GATEWAY_GROUP
    for name, pool in config.pools.items():
        _check_pool(name, pool, config)
        resources = data["pools"][name].setdefault("resources", {})
        resources.setdefault("node_labels", {})[POOL_LABEL] = name
    _check_gateway(config)
    _check_secrets(config)
    for name in config.kubernetes.nodes:
        if name not in {pool.gpu_type for pool in config.pools.values()}:
            raise ConfigError(f"kubernetes.nodes.{name}: no pool has this gpu_type")
    check_pools(config, origin="configuration")
    return check_config(data)


def declared(config: TidemillConfig) -> dict[str, Any]:
    """What was said in the file, without defaults."""
    return config.model_dump(mode="json", exclude_unset=True)


def needs_download(config: TidemillConfig) -> bool:
    """Whether weights of models or adapters come from outside the cluster."""
    sources = [model.source for model in config.models.values()]
    sources += [adapter.source for adapter in config.adapters.catalogue.values()]
    return any(not _ON_THE_MACHINE.match(source) for source in sources)


def _check_tenants(config: TidemillConfig) -> None:
    if config.tenants.store.kind != "redis":
        raise ConfigError(
            "tenants.store.kind: on Kubernetes it must be redis; files in a pod are gone with it, and other "
            "pods do not see them"
        )


def _check_gateway(config: TidemillConfig) -> None:
    gateway, cache = config.gateway, config.semantic_cache
    needed = gateway.router_replicas * gateway.router_cpus + cache.enabled * cache.replicas * cache.cpus
    offered = gateway.router_replicas * config.kubernetes.gateway.cpus
    if needed > offered:
        raise ConfigError(
            f"kubernetes.gateway.cpus: {gateway.router_replicas} pods offer {offered} cores, and replicas "
            f"of router and cache need {needed:g}"
        )


def _check_secrets(config: TidemillConfig) -> None:
    """The configuration becomes a ConfigMap, which is no place for a password."""
    for name in config.kubernetes.secrets.environment:
        if name.startswith(_OWN_VARIABLES):
            raise ConfigError(
                f"kubernetes.secrets.environment.{name}: variables that begin with "
                f"{', '.join(_OWN_VARIABLES)} are set by Tidemill; take another name"
            )
    for path, url in (
        ("semantic_cache.semantic.documents.redis_url", config.semantic_cache.semantic.documents.redis_url),
        ("tenants.store.redis_url", config.tenants.store.redis_url),
    ):
        if urlsplit(url).scheme == "unix":
            raise ConfigError(f"{path}: a socket is on one machine, and pods are not; name a host and port")
        if urlsplit(url).password:
            raise ConfigError(
                f"{path}: holds a password, and would stand in a ConfigMap for all to read; "
                f"name a variable in {path.removesuffix('url')}password_env, and its secret in "
                "kubernetes.secrets.environment"
            )


def _check_pool(name: str, pool: PoolConfig, config: TidemillConfig) -> None:
    path = f"pools.{name}"
    if name == GATEWAY_GROUP or not _GROUP_NAME.fullmatch(name):
        raise ConfigError(
            f"{path}: not usable as a worker group's name; take lower-case letters, digits and hyphens, and "
            f"not {GATEWAY_GROUP!r}"
        )
    for key, value in pool.resources.node_labels.items():
        if not _PLAIN_VALUE.fullmatch(value):
            raise ConfigError(
                f"{path}.resources.node_labels.{key}: {value!r} is a choice; a worker group has one value. "
                "Choices of nodes belong into kubernetes.nodes.NAME.node_affinity"
            )
    if not _PLAIN_VALUE.fullmatch(pool.gpu_type) or len(pool.gpu_type) > _LABEL_CHARACTERS_MAX:
        raise ConfigError(
            f"{path}.gpu_type: {pool.gpu_type!r} becomes the value of a label; take at most "
            f"{_LABEL_CHARACTERS_MAX} letters, digits, '-', '_' and '.'"
        )
    if pool.gpu_type == "cpu" and pool.resources.gpus:
        raise ConfigError(f"{path}.gpu_type: {pool.resources.gpus:g} GPUs are asked for on type cpu")
    if pool.resources.gpus != int(pool.resources.gpus):
        raise ConfigError(f"{path}.resources.gpus: a pod takes whole GPUs, not {pool.resources.gpus:g}")
    model = config.models[pool.model]
    if model.source.startswith("package:") and pool.engine.kind == "vllm":
        raise ConfigError(
            f"models.{pool.model}.source: the images hold no weights, so {model.source!r} is not in them; "
            "name a Hugging Face id or a folder of the weights volume"
        )
