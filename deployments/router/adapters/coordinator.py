"""The coordinator of adapters as routers see it, wherever it runs."""

from collections.abc import Mapping
from typing import Any, Protocol

from deployments.adapter_messages import CatalogueAnswer


class CoordinatorAwayError(Exception):
    """The coordinator does not answer now."""


class Coordinator(Protocol):
    """Takes changes of the catalogue."""

    async def change(self, operation: str, name: str, fields: Mapping[str, Any]) -> CatalogueAnswer:
        """Add, update or remove an adapter. Raises CoordinatorAwayError when nobody answers."""
