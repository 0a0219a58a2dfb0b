"""The little cluster of `conftest.py`: its parts, and what tests do with them."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from cluster.config import TidemillConfig
from cluster.entities.adapters import AdapterCard
from cluster.entities.pool import ReplicaPhase, ReplicaReport
from deployments.adapter_messages import CatalogueAnswer
from deployments.adapter_pager.files import AdapterFacts
from deployments.adapter_pager.folders import AdapterFolders
from deployments.adapter_pager.sources import AdapterSources
from deployments.engine.paging import ADAPTERS_FOLDER, Paged
from deployments.engine.simulated import SimulatedApp
from deployments.http_port import HttpPort
from deployments.messages import (
    DemandReport,
    FleetOverview,
    FleetState,
    PublishedAdapters,
    ServiceReport,
)
from deployments.model_learning.service import ModelLearner
from deployments.router.adapters.coordinator import CoordinatorAwayError
from deployments.router.core import RouterCore
from deployments.semantic_cache.service import CacheService
from operators.pager.service import PagerCoordinator
from tests.shell.router.observed import Answer, CountingApp

ADMIN_KEY = "the-admin-key"


@dataclass(slots=True)
class Engine:
    """One replica: the engine, or what stands in for it."""

    app: Any
    counting: CountingApp
    port: HttpPort | None
    report: ReplicaReport
    paged: Paged | None = None

    @property
    def running(self) -> int:
        """Sequences that the simulated engine computes or holds."""
        load = self.app.load()
        return int(load.requests_running + load.requests_waiting)


@dataclass(slots=True)
class LittleCluster:
    """The running parts and what tests do with them."""

    config: TidemillConfig
    core: RouterCore
    port: HttpPort
    http: aiohttp.ClientSession
    engines: dict[str, Engine] = field(default_factory=dict)
    cache: CacheService | None = None
    learner: ModelLearner | None = None
    services: tuple[ServiceReport, ...] = ()
    version: int = 0
    state_dir: str = ""
    coordinator: PagerCoordinator | None = None
    """None while it is away."""
    _coordinators: list[PagerCoordinator] = field(default_factory=list)
    published: PublishedAdapters | None = None

    @property
    def url(self) -> str:
        """Where the router listens."""
        return self.port.url

    def tell(self) -> None:
        """Let the router hear of the fleet as it is."""
        self.version += 1
        self.core.apply(
            FleetState(
                version=self.version,
                replicas=self.reports(),
                services=self.services,
                adapters=self.published,
            )
        )

    def reports(self) -> tuple[ReplicaReport, ...]:
        """What the replicas say of themselves."""
        return tuple(
            engine.report
            if engine.paged is None
            else replace(engine.report, adapters=engine.paged.pager.residency())
            for engine in self.engines.values()
        )

    async def overview(self) -> FleetOverview:
        """As the directory tells the coordinator of adapters."""
        asked = dict(self.core.adapters.asked_for) if self.core.adapters else {}
        return FleetOverview(replicas=self.reports(), demand=(DemandReport(router_id="r", adapters=asked),))

    async def start_coordinator(self) -> None:
        """Start the coordinator of adapters, or another one with the files of the one before."""
        sources = AdapterSources(self.config.adapters, make=Path)
        folders = AdapterFolders(
            Path(os.environ["TIDEMILL_CACHE"]) / ADAPTERS_FOLDER, fetch=sources.fetch, bytes_max=10**9
        )

        async def stage(card: AdapterCard) -> AdapterFacts:
            return (await folders.stage(card)).facts

        self.coordinator = PagerCoordinator(
            self.config, Path(self.state_dir), directory=self, stage=stage, wall_s=time.time
        )
        self._coordinators.append(self.coordinator)
        await self.coordinator.round()

    async def close_coordinators(self) -> None:
        """Close their connections, and write nothing: they may have been killed."""
        for coordinator in self._coordinators:
            await coordinator._http().close()

    async def change(self, operation: str, name: str, fields: Any) -> CatalogueAnswer:
        """The coordinator as the router calls it."""
        if self.coordinator is None:
            raise CoordinatorAwayError("killed on purpose")
        return await self.coordinator.change(operation, name, fields)

    async def publish_adapters(self, adapters: PublishedAdapters) -> None:
        """As the directory takes them."""
        self.published = adapters
        self.tell()

    async def heartbeat(self) -> None:
        """Tell the router again and again, as the directory's long poll does."""
        while True:
            self.tell()
            await asyncio.sleep(0.05)

    def set_phase(self, name: str, phase: ReplicaPhase) -> None:
        """Change a replica's phase at once."""
        self.engines[name].report = replace(self.engines[name].report, phase=phase)
        self.tell()

    def remove(self, *names: str) -> None:
        """Take replicas out of the routing table; their ports stay open."""
        for name in names:
            del self.engines[name]
        self.tell()

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        """POST JSON, or bytes as they are, and read the whole answer."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        named = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        async with self.http.post(self.url + path, data=raw, headers=named) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, *, method: str = "GET", key: str = "") -> Answer:
        """Any bodyless request."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with self.http.request(method, self.url + path, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def chat(
        self, text: str = "hello", *, headers: dict[str, str] | None = None, **fields: Any
    ) -> Answer:
        """A chat completion."""
        body = {"model": "sim", "messages": [{"role": "user", "content": text}], **fields}
        return await self.post("/v1/chat/completions", body, **(headers or {}))

    async def decision(self, answer: Answer) -> Any:
        """The decision record of an answer; written a moment after it, when the cache has taken it."""
        path = f"/admin/decisions/{answer.headers['x-tidemill-decision-id']}"
        for _ in range(100):
            found = await self.get(path, key=ADMIN_KEY)
            if found.status == 200:
                return found.json
            await asyncio.sleep(0.01)
        raise AssertionError(found.content)

    async def metric(self, line: str) -> float:
        """A sample of the router's metrics; 0 if it is not there."""
        text = (await self.get("/metrics", key=ADMIN_KEY)).content.decode()
        values = [row.rsplit(" ", 1)[1] for row in text.splitlines() if row.startswith(line + " ")]
        return float(values[0]) if values else 0.0

    @property
    def engine_requests(self) -> int:
        """Requests that reached any engine."""
        return sum(engine.counting.total for engine in self.engines.values())

    async def until(self, condition: Callable[[], bool], *, within_s: float = 2.0) -> float:
        """Wait until a condition holds; the seconds it took."""
        started_s = time.monotonic()
        while not condition():
            assert time.monotonic() - started_s < within_s, "it did not come to that"
            await asyncio.sleep(0.005)
        return time.monotonic() - started_s

    @property
    def idle(self) -> bool:
        """Whether the router has finished everything and all its counters are back at zero."""
        loads = self.core.picture._loads.values()
        weights = [(load.requests, load.pending_prefill_tokens, load.decode_tokens) for load in loads]
        queue = self.core.queue
        return not (any(map(any, weights)) or queue.in_flight or queue.queued or self.port.open_requests)

    async def assert_idle(self) -> None:
        """After everything is answered nothing may be counted as in flight, here or in an engine."""
        engines = [engine for engine in self.engines.values() if isinstance(engine.app, SimulatedApp)]
        try:
            await self.until(lambda: self.idle and not any(engine.running for engine in engines))
        except AssertionError:
            running = {engine.report.replica_id: engine.running for engine in engines}
            queue = self.core.queue
            raise AssertionError(
                f"engines: {running}, in flight: {queue.in_flight}, queued: {queue.queued}, "
                f"loads: {self.core.picture._loads}"
            ) from None
