"""The coordinator of adapters as a named Ray actor."""

from collections.abc import Mapping
from typing import Any

from deployments.adapter_messages import COORDINATOR_ACTOR, CatalogueAnswer
from deployments.directory.head_actors import ActorAwayError, NamedActor
from deployments.router.adapters.coordinator import CoordinatorAwayError


class RemoteCoordinator:
    """One process's connection to the actor; survives its restart."""

    def __init__(self, *, timeout_s: float) -> None:
        self._actor = NamedActor(COORDINATOR_ACTOR, timeout_s=timeout_s)

    async def change(self, operation: str, name: str, fields: Mapping[str, Any]) -> CatalogueAnswer:
        """See `Coordinator`."""
        try:
            found: CatalogueAnswer = await self._actor.call("change", operation, name, dict(fields))
        except ActorAwayError as error:
            raise CoordinatorAwayError(str(error)) from error
        return found
