"""One engine replica: an engine, its HTTP port, its reports, and an exact way to leave.

Serve owns the process: it starts it, checks it, replaces it and ends it. Requests reach it over its own
port. It leaves in three steps: no router chooses it any more; its open requests finish; it dies.
"""

import asyncio
import contextlib
import logging
import os
import time
from typing import Any

import aiohttp
import ray
from ray import serve

from cluster.config import TidemillConfig
from cluster.config.pools import SimulatedEngine, VllmEngine
from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaReport
from deployments.directory.actor import DirectoryClient
from deployments.engine.interface import Engine, EngineFailedError
from deployments.engine.paging import Paged, paged
from deployments.engine.weights import default_cache_dir, resolve_weights
from deployments.http_port import HttpPort, own_host

logger = logging.getLogger("tidemill.replica")

_WATCH_PERIOD_S = 0.25
_ROUTED_AROUND_TIMEOUT_S = 15.0


class EngineReplica:
    """What the prefill, decode and combined deployments have in common."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: TidemillConfig, pool_name: str, weights: str, state_dir: str = ""
    ) -> None:
        """Start the engine; returns when it answers, so that Serve calls the replica ready only then."""
        self._name = PoolName(pool_name)
        self._pool = config.pools[pool_name]
        self._id = ReplicaId(f"{pool_name}-{serve.get_replica_context().replica_id.unique_id}")
        self._started_at_s = time.time()
        context = ray.get_runtime_context()
        self._node_id = context.get_node_id()
        self._gpus = tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", ()))
        self._phase = ReplicaPhase.READY
        self._directory = DirectoryClient()
        self._tasks: list[asyncio.Task[Any]] = []
        # Here, because a package or recipe has to be turned into weights on every node that serves them.
        found = await asyncio.to_thread(resolve_weights, weights, default_cache_dir(os.environ), logger.info)
        self._engine = _engine(config, pool_name, str(found))
        app = await self._engine.start()
        self._paged: Paged | None = None
        if self._engine.adapters is not None and self._pool.adapters is not None:
            self._paged = await paged(
                app, self._engine.adapters, config=config, pool_name=pool_name, state_dir=state_dir
            )
            app = self._paged.app
        self._http = HttpPort(app, host=own_host())
        await self._http.start()
        self._session = aiohttp.ClientSession()
        await self.check_health()
        self._tasks = [
            asyncio.create_task(self._directory.keep_reporting("report", self._report)),
            asyncio.create_task(self._watch_engine()),
        ]
        logger.info("replica %s serves %s at %s", self._id, self._pool.model, self._http.url)

    async def check_health(self) -> None:
        """Generate one token through the replica's own port. Serve calls this.

        Raises:
            EngineFailedError: no token came.
        """
        failure = self._engine.failure()
        if failure is not None:
            raise EngineFailedError(failure)
        body = {"model": self._pool.model, "prompt": "a", "max_tokens": 1, "temperature": 0}
        timeout = aiohttp.ClientTimeout(total=self._pool.health_timeout_s)
        try:
            async with self._session.post(
                f"{self._http.url}/v1/completions", json=body, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise EngineFailedError(
                        f"health check: {response.status} {(await response.text())[:500]}"
                    )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineFailedError(f"health check: {error or 'timed out'}") from error

    async def _report(self) -> ReplicaReport:
        load = self._engine.load()
        return ReplicaReport(
            replica_id=self._id,
            pool=self._name,
            role=self._pool.role,
            model=self._pool.model,
            gpu_type=self._pool.gpu_type,
            url=self._http.url,
            phase=self._phase,
            observed_at_s=time.time(),
            started_at_s=self._started_at_s,
            requests_running=load.requests_running,
            requests_waiting=load.requests_waiting,
            kv_cache_usage=load.kv_cache_usage,
            prefill_tokens_per_s=load.prefill_tokens_per_s,
            max_concurrent_requests=self._pool.max_concurrent_requests,
            node_id=self._node_id,
            gpus=self._gpus,
            counters=load.counters,
            prefix_cache=load.prefix_cache,
            adapters=self._paged.pager.residency() if self._paged else (),
        )

    async def _watch_engine(self) -> None:
        """Leave at once when the engine dies: waiting for Serve's health check would cost requests."""
        while True:
            await asyncio.sleep(_WATCH_PERIOD_S)
            failure = self._engine.failure()
            if failure is not None:
                logger.error("replica %s gives up: %s", self._id, failure)
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(2.0):
                        await self._directory.call("leave", self._id)
                # Requests in flight were answered with an error by vLLM already. Serve replaces a dead
                # actor immediately, an unhealthy one only after several checks.
                os._exit(1)

    async def __del__(self) -> None:
        """Leave exactly. Serve awaits this before it ends the process (graceful_shutdown_timeout_s)."""
        if not self._tasks:
            return
        self._phase = ReplicaPhase.DRAINING  # so that a directory that restarts meanwhile hears of it
        deadline_s = time.monotonic() + self._pool.drain_timeout_s
        with contextlib.suppress(Exception):
            await self._directory.call("drain", self._id, _ROUTED_AROUND_TIMEOUT_S)
        await self._http.idle(timeout_s=deadline_s - time.monotonic())
        cut_off = self._http.open_requests
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            await self._directory.call("leave", self._id)
        await self._http.stop(grace_s=1.0)
        if self._paged is not None:
            await self._paged.stop()
        await self._session.close()
        await self._engine.stop()
        logger.info("replica %s left, %d requests cut off", self._id, cut_off)


def _engine(config: TidemillConfig, pool_name: str, weights: str) -> Engine:
    pool = config.pools[pool_name]
    if isinstance(pool.engine, VllmEngine):
        from deployments.engine.vllm import VllmServer

        return VllmServer(
            pool.engine,
            pool=pool,
            name=pool.model,
            model=config.models[pool.model],
            weights=weights,
            split=config.is_split(pool.model),
            traces_endpoint=config.tracing.endpoint,
            media_domains=config.gateway.allowed_media_domains,
        )
    from deployments.engine.simulated_server import SimulatedServer

    assert isinstance(pool.engine, SimulatedEngine)  # noqa: S101 - the union has two members
    return SimulatedServer(pool.engine, model=pool.model, role=pool.role, adapters=pool.adapters)
