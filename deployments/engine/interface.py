"""What a replica needs of an engine, whichever it is."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.entities.pool import EngineCounters, PrefixCacheReport
from deployments.adapter_pager.backend import AdapterBackend

ASGIApp = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How busy an engine is."""

    requests_running: int = 0
    requests_waiting: int = 0
    kv_cache_usage: float = 0.0
    """Fraction of KV cache blocks in use, 0..1."""
    prefill_tokens_per_s: float | None = None
    """Measured; None until something was prefilled."""
    counters: EngineCounters = field(default_factory=EngineCounters)
    """What it has done since it started."""
    prefix_cache: PrefixCacheReport | None = None
    """None if it does not tell."""


class EngineFailedError(RuntimeError):
    """The engine cannot answer any more; its replica must be replaced."""


class Engine(Protocol):
    """An engine that serves vLLM's HTTP surface as an ASGI application."""

    async def start(self) -> ASGIApp:
        """Load the model and return the application.

        Raises:
            EngineFailedError: with the engine's own last words.
        """
        ...

    @property
    def adapters(self) -> AdapterBackend | None:
        """Its slots for LoRA adapters, once it runs; None if it has none."""
        ...

    def load(self) -> EngineLoad:
        """How busy it is now."""
        ...

    def failure(self) -> str | None:
        """Why the engine is dead; None while it lives."""
        ...

    async def stop(self) -> None:
        """End it and everything it started."""
        ...
