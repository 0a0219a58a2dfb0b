"""The simulated engine in the form in which a replica holds an engine."""

import asyncio
from typing import Any

from cluster.config.adapters import PoolAdaptersConfig
from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import Role
from deployments.engine.interface import EngineLoad
from deployments.engine.simulated import SimulatedApp
from deployments.engine.simulated_adapters import SimulatedAdapters


class SimulatedServer:
    """The simulated engine in the form a replica holds an engine (`deployments.engine.interface.Engine`)."""

    def __init__(
        self, config: SimulatedEngine, *, model: str, role: Role, adapters: PoolAdaptersConfig | None = None
    ) -> None:
        self._start_s = config.start_s
        self._app = SimulatedApp(
            config, model=model, role=role, adapter_slots=adapters.slots if adapters else 0
        )

    @property
    def adapters(self) -> SimulatedAdapters | None:
        """Its LoRA slots."""
        return self._app.adapters

    async def start(self) -> Any:
        """Return the application after the configured start-up time."""
        await asyncio.sleep(self._start_s)
        return self._app.app

    def load(self) -> EngineLoad:
        """How busy it is now."""
        return self._app.load()

    def failure(self) -> str | None:
        """Always None: it dies only with its process."""
        return None

    async def stop(self) -> None:
        """Stop counting out tokens."""
        await self._app.aclose()
