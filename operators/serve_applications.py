"""What Serve builds for a RayService: the same applications as `deployments.app.deploy`, one call for each.

Nobody calls `deploy` there: KubeRay hands Serve a description, and Serve calls `build` in a task on the
cluster. The actors that the applications need are started with them.
"""

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict
from ray import serve

from cluster.config import TidemillConfig
from deployments.app import cache_application, gateway_application, pool_application
from deployments.directory.actor import start_directory
from deployments.model_learning.actor import start_learner
from deployments.router.core import RouterSettings
from operators.cli.state import state_dir_of
from operators.pager.actor import start_coordinator
from operators.provisioner.actor import start_provisioner


class ApplicationArguments(BaseModel):
    """One application of a cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: TidemillConfig
    """The whole configuration."""

    pool: str | None = None
    """The pool, for a pool's application."""

    part: Literal["semantic-cache", "gateway"] | None = None
    """Which of the others."""


def build(args: ApplicationArguments) -> serve.Application:
    """The application that is described.

    Raises:
        KeyError: the admin key is not in the environment.
    """
    config, state_dir = args.config, state_dir_of(os.environ)
    start_directory()
    if args.pool is not None:
        # Nodes resolve a source themselves, so it is handed on as it stands.
        source = config.models[config.pools[args.pool].model].source
        return pool_application(config, args.pool, source, state_dir=str(state_dir))
    if args.part == "semantic-cache":
        return cache_application(config, str(state_dir))
    if config.routes_models:
        start_learner(config, state_dir)
    start_provisioner(config, state_dir)
    start_coordinator(config, state_dir)
    key = os.environ[config.gateway.admin_key_env]
    return gateway_application(config, RouterSettings(state_dir=str(state_dir), admin_key=key))
