"""Builds the Serve applications from the configuration: one per pool, one for the gateway.

An application of its own lets a pool be added, resized and removed without touching the rest
(docs/adr/0004). `deploy` is what the command line and the Ray job call.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import ray
from ray import serve
from ray.serve._private.common import DeploymentID
from ray.serve.api import RunTarget
from ray.serve.context import _get_global_client

from cluster.config import TidemillConfig
from cluster.entities.pool import Role
from deployments.combined.deployment import Combined
from deployments.decode.deployment import Decode
from deployments.directory.actor import NAMESPACE, start_directory
from deployments.model_learning.actor import start_learner
from deployments.prefill.deployment import Prefill
from deployments.router.core import RouterSettings
from deployments.router.deployment import Router
from deployments.semantic_cache.deployment import SemanticCache

GATEWAY_APPLICATION = "gateway"
_DEPLOYMENTS: dict[Role, Any] = {Role.PREFILL: Prefill, Role.DECODE: Decode, Role.COMBINED: Combined}
_LOGGING = {"enable_access_log": False}
"""The decision log says more, and costs less than a line of Serve's for every request."""
_FORCED_STOP_S = 30.0
"""What Serve adds to a pool's drain time before it kills a replica."""


def pool_application_name(pool: str) -> str:
    """Name of the Serve application of a pool."""
    return f"pool-{pool}"


def pool_application(config: TidemillConfig, pool_name: str, weights: str) -> serve.Application:
    """The application of one pool."""
    pool = config.pools[pool_name]
    resources = pool.resources
    actor_options: dict[str, object] = {
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        "resources": dict(resources.custom),
    }
    if resources.node_labels:
        actor_options["label_selector"] = dict(resources.node_labels)
    if resources.memory_bytes is not None:
        actor_options["memory"] = resources.memory_bytes
    deployment = _DEPLOYMENTS[pool.role].options(
        # Serve deploys nothing with 0 replicas; `deploy` takes the one back.
        num_replicas=max(1, pool.replicas.start),
        ray_actor_options=actor_options,
        graceful_shutdown_timeout_s=pool.drain_timeout_s + _FORCED_STOP_S,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=pool.health_period_s,
        health_check_timeout_s=pool.health_timeout_s,
    )
    return deployment.bind(config, pool_name, weights)


def _light_actor(cpus: float, node_labels: Mapping[str, str]) -> dict[str, object]:
    """Actor options of replicas that compute little, and need no particular node unless labels say so."""
    options: dict[str, object] = {"num_cpus": cpus}
    return {**options, "label_selector": dict(node_labels)} if node_labels else options


def gateway_application(config: TidemillConfig, settings: RouterSettings) -> serve.Application:
    """The router, and the semantic cache it asks first."""
    gateway = config.gateway
    router = cast("serve.Deployment", Router).options(
        num_replicas=gateway.router_replicas,
        ray_actor_options=_light_actor(gateway.router_cpus, gateway.node_labels),
        # The router bounds itself and answers 429 in OpenAI's shape; Serve's own bound lies behind that.
        max_ongoing_requests=gateway.max_concurrent_requests + gateway.max_queued_requests + 64,
        graceful_shutdown_timeout_s=gateway.request_timeout_s,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return router.bind(config, settings)


def cache_application(config: TidemillConfig, state_dir: str) -> serve.Application:
    """The semantic cache."""
    deployment = cast("serve.Deployment", SemanticCache)
    return deployment.options(
        num_replicas=config.semantic_cache.replicas,
        ray_actor_options=_light_actor(config.semantic_cache.cpus, config.semantic_cache.node_labels),
        graceful_shutdown_wait_loop_s=0.2,
    ).bind(config, state_dir)


def targets(
    config: TidemillConfig, *, weights: Mapping[str, str], settings: RouterSettings
) -> list[RunTarget]:
    """Every application of a cluster, in the order in which they are of use."""
    found = [
        RunTarget(
            target=pool_application(config, name, weights[pool.model]),
            name=pool_application_name(name),
            route_prefix=None,
            external_scaler_enabled=True,
            logging_config=_LOGGING,
        )
        for name, pool in config.pools.items()
    ]
    if config.semantic_cache.enabled:
        application = cache_application(config, settings.state_dir)
        found.append(
            RunTarget(target=application, name="semantic-cache", route_prefix=None, logging_config=_LOGGING)
        )
    gateway = gateway_application(config, settings)
    found.append(
        RunTarget(target=gateway, name=GATEWAY_APPLICATION, route_prefix="/", logging_config=_LOGGING)
    )
    return found


def deploy(
    config: TidemillConfig,
    *,
    cluster_address: str,
    state_dir: Path,
    weights: Mapping[str, str],
    admin_key: str,
    progress: Callable[[str], None],
) -> None:
    """Deploy everything on a running Ray cluster; returns when every application runs.

    Args:
        config: what to deploy.
        cluster_address: the Ray cluster's address (`host:port`).
        state_dir: where routers keep their decision logs.
        weights: for every model, a local folder or Hugging Face id.
        admin_key: what `/admin/*` asks for.
        progress: told of every step.

    Raises:
        RuntimeError: an application failed to deploy, with Serve's message.
    """
    if not ray.is_initialized():
        ray.init(
            address=cluster_address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", str(Path.cwd()))}},
        )
    progress("starting the fleet directory")
    start_directory()
    if config.routes_models:
        progress("starting the learner of model routing")
        start_learner(config, state_dir)
    serve.start(http_options={"host": config.gateway.host, "port": config.gateway.port})
    applications = targets(
        config, weights=weights, settings=RouterSettings(state_dir=str(state_dir), admin_key=admin_key)
    )
    progress(f"deploying {', '.join(target.name for target in applications)}")
    asleep = {pool_application_name(name) for name, pool in config.pools.items() if not pool.replicas.start}
    if asleep:  # Serve refuses to deploy nothing
        # Nobody waits for a pool that is to sleep: its hardware may not even be there.
        serve.run_many([a for a in applications if a.name in asleep], wait_for_applications_running=False)
        for name in sorted(asleep):
            _put_to_sleep(name)
    serve.run_many([a for a in applications if a.name not in asleep], wait_for_applications_running=True)


def _put_to_sleep(application: str) -> None:
    """Take back the one replica that Serve insists on: what its REST interface for external scalers does."""
    controller = _get_global_client()._controller  # noqa: SLF001 - Serve has no public call for it
    deployments = serve.status().applications[application].deployments
    for deployment in deployments:
        identity = DeploymentID(name=deployment, app_name=application)
        ray.get(controller.update_deployment_replicas.remote(identity, 0))
