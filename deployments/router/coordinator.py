"""The coordinator of adapters as routers see it, wherever it runs."""

from collections.abc import Mapping
from typing import Any, Protocol

from deployments.adapter_messages import COORDINATOR_ACTOR, CatalogueAnswer
from deployments.directory.head_actors import NamedActor


class Coordinator(Protocol):
    """The coordinator as routers see it."""

    async def change(self, operation: str, name: str, fields: Mapping[str, Any]) -> CatalogueAnswer:
        """Add, update or remove an adapter. Raises ActorAwayError when it does not answer."""


class RemoteCoordinator:
    """One process's connection to the coordinator; survives its restart."""

    def __init__(self, *, timeout_s: float) -> None:
        self._actor = NamedActor(COORDINATOR_ACTOR, timeout_s=timeout_s)

    async def change(self, operation: str, name: str, fields: Mapping[str, Any]) -> CatalogueAnswer:
        """See `Coordinator`."""
        found: CatalogueAnswer = await self._actor.call("change", operation, name, dict(fields))
        return found
