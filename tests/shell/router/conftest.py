"""A little cluster in one process: the router, simulated engines and the cache, each on a port of its own.

Nothing of it needs Ray: what the directory would tell the router is told by a heartbeat here.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import uvicorn.server
import yaml

from cluster.config import TidemillConfig, check_config
from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaReport
from deployments.engine.paging import paged
from deployments.engine.simulated import SimulatedApp
from deployments.http_port import HttpPort, free_port
from deployments.messages import (
    SEMANTIC_CACHE,
    ServiceReport,
)
from deployments.model_learning.service import ModelLearner
from deployments.router.asgi import RouterApp
from deployments.router.core import RouterCore, RouterSettings
from deployments.router.generation import engine_answer, going_on
from deployments.semantic_cache.service import NOTED_IN_TRACES, CacheService
from deployments.semantic_cache.sqlite_documents import SqliteDocuments
from deployments.tracing import TracedApp, tracing_of
from tests.shell.router.dying import Dying
from tests.shell.router.little_cluster import ADMIN_KEY, Engine, LittleCluster
from tests.shell.router.observed import CountingApp

HOST = "127.0.0.1"
LONG_PROMPT = "the tide turns the wheel " * 30

_CONFIG = yaml.safe_load("""
models:
  sim: {source: simulated, aliases: [auto]}
pools:
  prefill:
    model: sim
    role: prefill
    gpu_type: H100
    engine: &engine
      kind: simulated
      prefill_tokens_per_s: 1000000
      step_base_s: 0.001
      step_per_sequence_s: 0
      output_tokens: 8
  decode:
    model: sim
    role: decode
    gpu_type: A100
    replicas: {min: 2, max: 2}
    engine: *engine
gateway: {queue_timeout_s: 5, request_timeout_s: 20, body_bytes_max: 65536}
routing:
  disaggregation: {uncached_tokens_min: 64, prefill_timeout_s: 5}
  replicas: {put_aside_first_s: 0.2, put_aside_max_s: 0.4}
""")


def _merged(base: Any, changes: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {
        key: _merged(base.get(key), changes[key]) if key in changes else base[key] for key in base | changes
    }


def config_with(changes: dict[str, Any]) -> TidemillConfig:
    """The cluster's configuration with some fields changed."""
    return check_config(_merged(_CONFIG, changes))


class _HurriedAsyncio:
    """asyncio with short naps: uvicorn polls every 0.1 s, which would be most of what these tests take."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(delay_s: float) -> None:
        await asyncio.sleep(min(delay_s, 0.01))


class _Site(contextlib.AsyncExitStack):
    """What runs, and the ports, which are closed together because each takes a moment."""

    def __init__(self) -> None:
        super().__init__()
        self._ports: list[HttpPort] = []

    async def serve(self, app: Any) -> HttpPort:
        """Put an application on a port."""
        port = HttpPort(app, host=HOST)
        await port.start()
        self._ports.append(port)
        return port

    async def stop_ports(self) -> None:
        """Close all ports."""
        await asyncio.gather(*(port.stop(grace_s=0.5) for port in self._ports))


async def _start_engine(
    config: TidemillConfig, pool: str, name: str, stand_in: Any, site: _Site, state_dir: str
) -> Engine:
    settings = config.pools[pool]
    slots = settings.adapters.slots if settings.adapters else 0
    app = stand_in or SimulatedApp(
        settings.engine,  # type: ignore[arg-type]
        model=settings.model,
        role=settings.role,
        adapter_slots=slots,
    )
    counting, beside = CountingApp(app), None
    if slots and stand_in is None:
        beside = await paged(app.app, app.adapters, config=config, pool_name=pool, state_dir=state_dir)
        site.push_async_callback(beside.stop)
        counting = CountingApp(beside.app)
    if stand_in == "closed":
        port, url = None, f"http://{HOST}:{free_port(HOST)}"
    else:
        port = await site.serve(counting)
        url = port.url
    if isinstance(app, SimulatedApp):
        site.push_async_callback(app.aclose)
    report = ReplicaReport(
        replica_id=ReplicaId(name),
        pool=PoolName(pool),
        role=settings.role,
        model=settings.model,
        gpu_type=settings.gpu_type,
        url=url,
        phase=ReplicaPhase.READY,
        observed_at_s=0.0,
        started_at_s=0.0,
        max_concurrent_requests=settings.max_concurrent_requests,
    )
    return Engine(app, counting, port, report, beside)


async def _start_cache(cluster: LittleCluster, site: _Site, *, encoder: bool) -> None:
    service = CacheService(
        cluster.config.semantic_cache,
        time.monotonic,
        reads_texts=cluster.config.reads_texts,
        documents=SqliteDocuments(None),
    )
    if encoder:
        await service.start()
    site.push_async_callback(service.close)
    app: Any = service.app
    if cluster.config.tracing.endpoint:
        tracing = tracing_of(cluster.config.tracing, service="tidemill-semantic-cache", instance="cache")
        site.push_async_callback(tracing.close)
        app = TracedApp(app, tracing, noted=NOTED_IN_TRACES)
    port = await site.serve(app)
    report = ServiceReport(service=SEMANTIC_CACHE, replica_id="cache", url=port.url, observed_at_s=0.0)
    cluster.cache, cluster.services = service, (report,)


async def _start(
    site: _Site,
    state_dir: str,
    changes: dict[str, Any] | None = None,
    *,
    stand_ins: dict[str, Any] | None = None,
    cache: bool = True,
    encoder: bool = False,
    beat: bool = True,
    draw: float | None = None,
    router_id: str = "r",
) -> LittleCluster:
    config = config_with(changes or {})
    learner = ModelLearner(config, state_dir) if config.routes_models else None
    settings = RouterSettings(state_dir=state_dir, admin_key=ADMIN_KEY)
    core = RouterCore(config, settings, router_id=router_id, learner=learner)
    if draw is not None:
        # 0 decides every tie for the replica whose name comes first.
        core.draw = lambda: draw  # type: ignore[method-assign]
    await core.start()
    site.push_async_callback(core.close)
    http = await site.enter_async_context(aiohttp.ClientSession())
    router = await site.serve(CountingApp(RouterApp(core)))
    cluster = LittleCluster(config, core, router, http, learner=learner, state_dir=state_dir)
    core.coordinator = cluster
    site.push_async_callback(cluster.close_coordinators)
    for pool, settings in config.pools.items():
        for number in range(settings.replicas.start):
            name = f"{pool}-{number}"
            stand_in = (stand_ins or {}).get(name)
            cluster.engines[name] = await _start_engine(config, pool, name, stand_in, site, state_dir)
    if cache:
        await _start_cache(cluster, site, encoder=encoder)
    cluster.tell()
    if beat:
        task = asyncio.create_task(cluster.heartbeat())
        site.callback(task.cancel)
    return cluster


def _engine_that(
    *chunks: bytes,
    status: int = 200,
    content_type: str = "text/event-stream; charset=utf-8",
    then: str = "end",
) -> Any:
    """An engine that answers every POST with these chunks and then ends, breaks the connection, or hangs."""

    async def app(_: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", content_type.encode())]
        if then != "hang silently":
            await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(0.01)
        if then == "break":
            raise RuntimeError("the connection is broken on purpose")
        if then.startswith("hang"):
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.fixture
async def start_cluster(
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    models_are_read_once: None,  # noqa: ARG001
) -> AsyncIterator[Any]:
    """Starts clusters: changes to the configuration, what stands in for which engine ("closed": nobody)."""
    # What is tested is that others are asked, not how patiently.
    monkeypatch.setattr(engine_answer, "_BACK_OFF_S", 0.01)
    monkeypatch.setattr(going_on, "_BACK_OFF_S", 0.01)
    monkeypatch.setattr(uvicorn.server, "asyncio", _HurriedAsyncio())
    monkeypatch.setenv("TIDEMILL_CACHE", str(tmp_path / "cache"))
    async with _Site() as site:
        site.push_async_callback(site.stop_ports)

        async def start(changes: dict[str, Any] | None = None, **options: Any) -> LittleCluster:
            return await _start(site, str(tmp_path), changes, **options)

        yield start


@pytest.fixture
async def cluster(start_cluster: Any) -> LittleCluster:
    """One prefill and two decode engines, the cache, the router."""
    started: LittleCluster = await start_cluster()
    return started


@pytest.fixture
def given() -> SimpleNamespace:
    """What tests share with the cluster."""
    return SimpleNamespace(admin_key=ADMIN_KEY, long_prompt=LONG_PROMPT, host=HOST, engine_that=_engine_that)


@pytest.fixture
async def dying(start_cluster):
    """A cluster of which every decode engine can be told to die."""
    engines = [Dying(), Dying()]
    cluster = await start_cluster(
        {"pools": {"decode": {"engine": {"output_tokens": 8}}}, "semantic_cache": {"enabled": False}},
        stand_ins={"decode-0": engines[0], "decode-1": engines[1]},
        draw=0.0,
    )
    yield cluster, engines
    for engine in engines:
        await engine.aclose()
