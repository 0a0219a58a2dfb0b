"""Puts an adapter pager beside a replica's engine."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import TidemillConfig
from cluster.config.pools import PoolConfig, VllmEngine
from cluster.policy.paging.catalogue import configured_catalogue
from cluster.policy.paging.core import PagerCore
from cluster.policy.paging.interface import Budget
from deployments.adapter_pager.asgi import AdapterLayer
from deployments.adapter_pager.backend import AdapterBackend
from deployments.adapter_pager.folders import AdapterFolders
from deployments.adapter_pager.memory import PagerMemory
from deployments.adapter_pager.pager import AdapterPager
from deployments.adapter_pager.sources import AdapterSources
from deployments.engine.adapter_making import made_adapter
from deployments.engine.weights import default_cache_dir

ADAPTERS_FOLDER = "adapters"
"""Of fetched adapters, in the cache folder; all replicas of a machine share it."""
_PAGERS = "adapter-pagers"
_SEQUENCES = 256
"""What vLLM and the simulated engine run at a time if nothing else is said."""


@dataclass(frozen=True, slots=True)
class Paged:
    """An engine's application with a pager around it."""

    app: Any
    pager: AdapterPager
    memory: PagerMemory

    async def stop(self) -> None:
        """Keep what was learnt, and end."""
        await self.pager.stop()
        self.memory.close()


async def paged(
    app: Any, backend: AdapterBackend, *, config: TidemillConfig, pool_name: str, state_dir: str
) -> Paged:
    """Start the pager of one engine of a pool.

    Args:
        app: the engine's application.
        backend: its slots.
        config: the cluster's; its catalogue is where the pager begins.
        pool_name: the pool, which holds adapters.
        state_dir: where what is learnt is kept; empty or unusable on this node: the cache folder.
    """
    pool, adapters = config.pools[pool_name], config.adapters
    limits = pool.adapters
    assert limits is not None  # noqa: S101 - that is why this was called
    cache = default_cache_dir(os.environ)
    memory = PagerMemory(
        _state_root(state_dir, cache),
        pool_name,
        encoder=config.semantic_cache.encoder.model,
        dimension=adapters.paging.dimension,
    )
    budget = Budget(slots=limits.slots, reserve_slots=limits.reserve_slots, bytes=limits.engine_bytes)
    core = PagerCore(adapters.paging, budget, source=memory.source)
    memory.restore(core)
    sources = AdapterSources(adapters, make=made_adapter)
    pager = AdapterPager(
        base=pool.model,
        config=limits,
        core=core,
        dimension=adapters.paging.dimension,
        folders=AdapterFolders(cache / ADAPTERS_FOLDER, fetch=sources.fetch, bytes_max=limits.disk_bytes),
        backend=backend,
        memory=memory,
        seats=_seats(pool),
    )
    await pager.start()
    pager.set_catalogue(configured_catalogue(config))
    return Paged(AdapterLayer(app, pager, base=pool.model), pager, memory)


def _seats(pool: PoolConfig) -> int:
    """Requests that the engine runs at a time, where its arguments say so."""
    found = pool.engine.args.get("max_num_seqs") if isinstance(pool.engine, VllmEngine) else None
    return found if isinstance(found, int) else _SEQUENCES


def _state_root(state_dir: str, cache: Path) -> Path:
    """A folder that can be written to."""
    root = Path(state_dir) / ADAPTERS_FOLDER if state_dir else cache / _PAGERS
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return cache / _PAGERS
    return root
