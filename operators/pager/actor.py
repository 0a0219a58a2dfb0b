"""The coordinator as a named Ray actor: restarted by Ray, with its state on disk."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.config import TidemillConfig
from cluster.entities.adapters import AdapterCard
from deployments.adapter_messages import COORDINATOR_ACTOR, CatalogueAnswer
from deployments.adapter_pager.files import AdapterFacts
from deployments.adapter_pager.folders import AdapterFolders
from deployments.adapter_pager.sources import AdapterSources
from deployments.directory.actor import ACTOR_NAME as DIRECTORY
from deployments.directory.head_actors import ActorAwayError, NamedActor, start_on_head
from deployments.engine.adapter_making import made_adapter
from deployments.engine.paging import ADAPTERS_FOLDER
from deployments.engine.weights import default_cache_dir
from deployments.messages import FleetOverview, PublishedAdapters
from operators.pager.service import PagerCoordinator

_DIRECTORY_TIMEOUT_S = 15.0


class _RemoteDirectory:
    """The directory actor as the coordinator sees it."""

    def __init__(self) -> None:
        self._actor = NamedActor(DIRECTORY, timeout_s=_DIRECTORY_TIMEOUT_S)

    async def overview(self) -> FleetOverview:
        found: FleetOverview = await self._call("overview")
        return found

    async def publish_adapters(self, adapters: PublishedAdapters) -> None:
        await self._call("publish_adapters", adapters)

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await self._actor.call(method, *arguments)
        except ActorAwayError as error:
            raise TimeoutError(str(error)) from error


class AdapterCoordinator:
    """The actor's body."""

    def __init__(self, config: TidemillConfig, state_dir: str) -> None:
        bytes_max = max(pool.adapters.disk_bytes for pool in config.pools.values() if pool.adapters)
        # The folders of the nodes on this machine: what is fetched for a look at it is fetched for them, too.
        self._folders = AdapterFolders(
            default_cache_dir(os.environ) / ADAPTERS_FOLDER,
            fetch=AdapterSources(config.adapters, make=made_adapter).fetch,
            bytes_max=bytes_max,
        )
        self._coordinator = PagerCoordinator(
            config, Path(state_dir), directory=_RemoteDirectory(), stage=self._stage, wall_s=time.time
        )
        self._task = asyncio.ensure_future(self._coordinator.run())

    async def _stage(self, card: AdapterCard) -> AdapterFacts:
        staged = await self._folders.stage(card)
        self._folders.let_go(staged.facts.sha256)
        return staged.facts

    async def change(self, operation: str, name: str, fields: Mapping[str, Any]) -> CatalogueAnswer:
        """See `PagerCoordinator.change`."""
        return await self._coordinator.change(operation, name, fields)

    async def alive(self) -> int:
        """The catalogue's version, as long as its rounds go on."""
        if self._task.done():
            self._task.result()
        return self._coordinator.catalogue.version


def start_coordinator(config: TidemillConfig, state_dir: Path) -> None:
    """Create the actor, or put the running one's successor with this configuration in its place.

    Nothing is started where no pool has adapters.
    """
    if any(pool.adapters is not None for pool in config.pools.values()):
        start_on_head(
            AdapterCoordinator,
            config,
            str(state_dir),
            name=COORDINATOR_ACTOR,
            max_concurrency=100,
            wait_for="alive",
        )
