"""Builds the Serve applications from the configuration: one per pool, one for the gateway.

An application of its own lets a pool be added, resized and removed without touching the rest
(docs/adr/0004). `deploy` is what the command line and the Ray job call.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import ray
from ray import serve
from ray.serve._private.common import DeploymentID
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
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
CACHE_APPLICATION = "semantic-cache"
_DEPLOYMENTS: dict[Role, Any] = {Role.PREFILL: Prefill, Role.DECODE: Decode, Role.COMBINED: Combined}
LOGGING = {"enable_access_log": False}
"""The decision log says more, and costs less than a line of Serve's for every request."""
GATEWAY_LOGGING = {**LOGGING, "log_level": "WARNING"}
"""Serve makes the line even where it is thrown away; below this level it does not."""
_FORCED_STOP_S = 30.0
"""What Serve adds to a pool's drain time before it kills a replica."""
_HEALTH_PERIOD_S = 5.0
_HEALTH_TIMEOUT_S = 10.0
"""Router and cache, which compute nothing for long; one that stands still is replaced after three checks."""
_ROUTER_HEALTH_TIMEOUT_S = 5.0
"""Sooner, because clients wait for what they have sent to it until it is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How to deploy where some of it may run already. The default deploys everything on an empty cluster."""

    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    """Of replicas: Serve would give them that of the job which started it first."""
    applications: frozenset[str] | None = None
    """Those to deploy, the others stay as they are; None deploys all."""
    replicas: Mapping[str, int] = field(default_factory=dict)
    """By pool: what it has now, so that a new version begins with as many."""
    surging: frozenset[str] = frozenset()
    """Applications whose new replicas start before old ones leave, one at a time."""
    serve_environment: Mapping[str, str] = field(default_factory=dict)
    """For Serve's controller and its proxies, if they do not run yet."""
    learner: bool = True
    """Whether the learner of model routing is started anew."""

    def wants(self, application: str) -> bool:
        """Whether an application is to be deployed."""
        return self.applications is None or application in self.applications


def pool_application_name(pool: str) -> str:
    """Name of the Serve application of a pool."""
    return f"pool-{pool}"


_EVERYTHING = Rollout()


def _rolled(deployment: Any, application: str, rollout: Rollout) -> Any:
    """A deployment with what a rollout asks for."""
    options: dict[str, Any] = {}
    if rollout.runtime_env:
        options["ray_actor_options"] = {
            **deployment.ray_actor_options,
            "runtime_env": dict(rollout.runtime_env),
        }
    if application in rollout.surging:
        options["max_surge_percent"] = 1  # rounded up: one replica
    return deployment.options(**options) if options else deployment


def pool_application(
    config: TidemillConfig,
    pool_name: str,
    weights: str,
    rollout: Rollout = _EVERYTHING,
    *,
    state_dir: str = "",
) -> serve.Application:
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
        num_replicas=max(1, rollout.replicas.get(pool_name, pool.replicas.start)),
        ray_actor_options=actor_options,
        graceful_shutdown_timeout_s=pool.drain_timeout_s + _FORCED_STOP_S,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=pool.health_period_s,
        health_check_timeout_s=pool.health_timeout_s,
    )
    application: serve.Application = _rolled(deployment, pool_application_name(pool_name), rollout).bind(
        config, pool_name, weights, state_dir
    )
    return application


def _light_actor(cpus: float, node_labels: Mapping[str, str]) -> dict[str, object]:
    """Actor options of replicas that compute little, and need no particular node unless labels say so."""
    options: dict[str, object] = {"num_cpus": cpus}
    return {**options, "label_selector": dict(node_labels)} if node_labels else options


def gateway_application(
    config: TidemillConfig, settings: RouterSettings, rollout: Rollout = _EVERYTHING
) -> serve.Application:
    """The router, and the semantic cache it asks first."""
    gateway = config.gateway
    router = cast("serve.Deployment", Router).options(
        num_replicas=gateway.router_replicas,
        ray_actor_options=_light_actor(gateway.router_cpus, gateway.node_labels),
        # The router bounds itself and answers 429 in OpenAI's shape; Serve's own bound lies behind that.
        max_ongoing_requests=gateway.max_concurrent_requests + gateway.max_queued_requests + 64,
        graceful_shutdown_timeout_s=gateway.request_timeout_s,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_ROUTER_HEALTH_TIMEOUT_S,
    )
    application: serve.Application = _rolled(router, GATEWAY_APPLICATION, rollout).bind(config, settings)
    return application


def cache_application(
    config: TidemillConfig, state_dir: str, rollout: Rollout = _EVERYTHING
) -> serve.Application:
    """The semantic cache."""
    deployment = cast("serve.Deployment", SemanticCache).options(
        num_replicas=config.semantic_cache.replicas,
        ray_actor_options=_light_actor(config.semantic_cache.cpus, config.semantic_cache.node_labels),
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
    )
    application: serve.Application = _rolled(deployment, CACHE_APPLICATION, rollout).bind(config, state_dir)
    return application


def application_names(config: TidemillConfig) -> list[str]:
    """The applications of a cluster, in the order in which they are of use."""
    cache = [CACHE_APPLICATION] if config.semantic_cache.enabled else []
    return [*map(pool_application_name, config.pools), *cache, GATEWAY_APPLICATION]


def targets(
    config: TidemillConfig,
    *,
    weights: Mapping[str, str],
    settings: RouterSettings,
    rollout: Rollout = _EVERYTHING,
) -> list[RunTarget]:
    """The applications to deploy, in the order in which they are of use."""
    found = [
        RunTarget(
            target=pool_application(config, name, weights[pool.model], rollout, state_dir=settings.state_dir),
            name=pool_application_name(name),
            route_prefix=None,
            external_scaler_enabled=True,
            logging_config=LOGGING,
        )
        for name, pool in config.pools.items()
    ]
    if config.semantic_cache.enabled:
        application = cache_application(config, settings.state_dir, rollout)
        found.append(
            RunTarget(target=application, name=CACHE_APPLICATION, route_prefix=None, logging_config=LOGGING)
        )
    gateway = gateway_application(config, settings, rollout)
    found.append(
        RunTarget(target=gateway, name=GATEWAY_APPLICATION, route_prefix="/", logging_config=GATEWAY_LOGGING)
    )
    return [target for target in found if rollout.wants(target.name)]


def deploy(
    config: TidemillConfig,
    *,
    cluster_address: str,
    state_dir: Path,
    weights: Mapping[str, str],
    admin_key: str,
    progress: Callable[[str], None],
    rollout: Rollout = _EVERYTHING,
    own_cluster: bool = False,
) -> None:
    """Deploy on a running Ray cluster; returns when every application runs.

    Args:
        config: what to deploy.
        cluster_address: the Ray cluster's address (`host:port`).
        state_dir: where routers keep their decision logs.
        weights: for every model, a folder, a Hugging Face id, or a source that nodes resolve.
        admin_key: what `/admin/*` asks for.
        progress: told of every step.
        rollout: what to deploy, where some of it runs already.
        own_cluster: whether nobody else uses the Ray cluster.

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
    # On a cluster that others use, Serve is not ours to end.
    start_directory(keeps={SERVE_CONTROLLER_NAME: SERVE_NAMESPACE} if own_cluster else {})
    if config.routes_models and rollout.learner:
        progress("starting the learner of model routing")
        start_learner(config, state_dir)
    _start_serve(config, rollout)
    settings = RouterSettings(state_dir=str(state_dir), admin_key=admin_key)
    applications = targets(config, weights=weights, settings=settings, rollout=rollout)
    if not applications:
        return
    progress(f"deploying {', '.join(target.name for target in applications)}")
    asleep = {
        pool_application_name(name)
        for name, pool in config.pools.items()
        if not rollout.replicas.get(name, pool.replicas.start) and rollout.wants(pool_application_name(name))
    }
    if asleep:  # Serve refuses to deploy nothing
        # Nobody waits for a pool that is to sleep: its hardware may not even be there.
        serve.run_many([a for a in applications if a.name in asleep], wait_for_applications_running=False)
        for name in sorted(asleep):
            _put_to_sleep(name)
    awake = [a for a in applications if a.name not in asleep]
    if rollout.applications is not None:
        # Routers of a new version know the new pools: let those be there first.
        _run([a for a in awake if a.name != GATEWAY_APPLICATION])
        awake = [a for a in awake if a.name == GATEWAY_APPLICATION]
    _run(awake)


def _run(applications: list[RunTarget]) -> None:
    if applications:
        serve.run_many(applications, wait_for_applications_running=True)


def _start_serve(config: TidemillConfig, rollout: Rollout) -> None:
    gateway, environment = config.gateway, dict(rollout.serve_environment)
    serve.start(
        # Simulated nodes are processes of this machine, and only one of them can have the port.
        proxy_location="HeadOnly" if config.local_cluster.simulated_nodes else "EveryNode",
        http_options={"host": gateway.host, "port": gateway.port},
        controller_options={"runtime_env": {"env_vars": environment}} if environment else None,
    )
    running = _get_global_client().http_config
    if running.port != gateway.port:
        raise RuntimeError(
            f"Serve runs on this Ray cluster already and listens on port {running.port}; set gateway.port to "
            "that, or shut Serve down first"
        )


def _put_to_sleep(application: str) -> None:
    """Take back the one replica that Serve insists on: what its REST interface for external scalers does."""
    controller = _get_global_client()._controller  # noqa: SLF001 - Serve has no public call for it
    deployments = serve.status().applications[application].deployments
    for deployment in deployments:
        identity = DeploymentID(name=deployment, app_name=application)
        ray.get(controller.update_deployment_replicas.remote(identity, 0))
