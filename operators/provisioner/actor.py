"""The provisioner as a named Ray actor: restarted by Ray, with its state on disk."""

import asyncio
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.config import TidemillConfig
from cluster.policy.provisioning.policies import policy_named
from deployments.directory.actor import DirectoryClient
from deployments.directory.head_actors import start_on_head
from deployments.messages import FleetOverview, PublishedPlan
from operators.provisioner.journal import Journal
from operators.provisioner.loop import ProvisionerLoop
from operators.provisioner.nodes import RayNodes
from operators.provisioner.observer import Observer
from operators.provisioner.serve_api import ServeApi
from operators.telemetry.agent import end_agents, ensure_agents

logger = logging.getLogger("tidemill.provisioner")

ACTOR_NAME = "tidemill-provisioner"
FOLDER = "provisioning"
"""Of its log and state, in the state folder."""
_AGENTS_PERIOD_S = 5.0
_DIRECTORY_TIMEOUT_S = 15.0


class _RemoteDirectory:
    """The directory actor as the loop sees it."""

    def __init__(self) -> None:
        self._client = DirectoryClient()

    async def overview(self) -> FleetOverview:
        found: FleetOverview = await self._call("overview")
        return found

    async def publish(self, plan: PublishedPlan) -> None:
        await self._call("publish", plan)

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            # Calls of an actor that Ray cannot restart for now wait without an error.
            async with asyncio.timeout(_DIRECTORY_TIMEOUT_S):
                return await self._client.call(method, *args)
        except TimeoutError:
            self._client = DirectoryClient()  # it may be another actor by the same name
            raise


class Provisioner:
    """The actor's body."""

    def __init__(self, config: TidemillConfig, state_dir: str) -> None:
        settings = config.provisioning
        policy = settings.policy
        self._config = config
        self._loop = ProvisionerLoop(
            config,
            policy_named(policy, solver_limit_s=settings.solver_share * settings.period_s),
            directory=_RemoteDirectory(),
            scaler=ServeApi(),
            nodes=RayNodes(),
            records=Journal(Path(state_dir) / FOLDER, config, policy),
            observer=Observer(config),
        )
        self._tasks = [
            asyncio.ensure_future(self._loop.run(time.time)),
            asyncio.ensure_future(self._keep_agents()),
        ]

    async def _keep_agents(self) -> None:
        while True:
            try:
                if self._loop.serving is not None:
                    await asyncio.to_thread(ensure_agents, self._config.telemetry, self._loop.serving)
            except Exception:
                logger.exception("telemetry agents could not be started")
            await asyncio.sleep(_AGENTS_PERIOD_S)

    async def last(self) -> dict[str, Any] | None:
        """The last decision."""
        return None if self._loop.last is None else asdict(self._loop.last)


def start_provisioner(config: TidemillConfig, state_dir: Path) -> None:
    """Create the actor, or put the running one's successor with this configuration in its place.

    The agents of the meters go with the one before; its successor starts its own.
    """
    start_on_head(Provisioner, config, str(state_dir), name=ACTOR_NAME, max_concurrency=100, wait_for="last")
    end_agents()
