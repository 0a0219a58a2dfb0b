"""The router deployment: the ASGI application inside a Serve replica, behind Serve's ingress."""

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

from ray import serve

from cluster.config import TidemillConfig
from deployments.directory.actor import DirectoryClient
from deployments.ingress import PAST_SERVE
from deployments.messages import DemandReport
from deployments.model_learning.actor import RemoteLearner
from deployments.router.adapters.remote_coordinator import RemoteCoordinator
from deployments.router.asgi import NAMED_BY_SERVE, RouterApp
from deployments.router.core import RouterCore, RouterSettings
from deployments.router.heap import settle_heap
from deployments.router.pages.metrics_port import MetricsPort
from deployments.router.wire.responder import Receive, Scope, Send

_GOODBYE_TIMEOUT_S = 2.0


class _LiveRouter:
    """The application with its connections and its watch on the fleet, opened by ASGI's lifespan."""

    def __init__(self, core: RouterCore) -> None:
        self._core = core
        self._app = RouterApp(core)
        self._tasks: list[asyncio.Task[Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            scope[NAMED_BY_SERVE] = not scope.get(PAST_SERVE)
            await self._app(scope, receive, send)

    async def _demand(self) -> DemandReport:
        report = self._core.demand.report(self._core.queue.queued_by_key())
        adapters = self._core.adapters
        return report if adapters is None else replace(report, adapters=dict(adapters.asked_for))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._core.start()
        client = DirectoryClient()
        self._tasks = [
            asyncio.create_task(client.watch(self._core.router_id, self._core.apply)),
            asyncio.create_task(client.keep_reporting("report_demand", self._demand)),
        ]
        if self._core.config.gateway.router_replicas > 1:
            exchanging = client.keep_exchanging(
                self._core.router_id,
                self._core.picture.share,
                self._core.picture.hear,
                period_s=self._core.config.routing.replicas.exchange_s,
            )
            self._tasks.append(asyncio.create_task(exchanging))
        metrics = MetricsPort(self._core, client)
        await metrics.start()
        settle_heap()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await metrics.close()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_GOODBYE_TIMEOUT_S):
                await client.call("unwatch", self._core.router_id)
        await self._core.close()
        await send({"type": "lifespan.shutdown.complete"})


@serve.deployment
@serve.ingress()
class Router:
    """One router replica. Requests reach its application directly from Serve's ingress."""

    def __init__(self, config: TidemillConfig, settings: RouterSettings) -> None:
        """Prepare; connections are opened when the application starts."""
        router_id = f"router-{serve.get_replica_context().replica_id.unique_id}"
        learner = RemoteLearner() if config.routes_models else None
        coordinator = RemoteCoordinator(timeout_s=config.adapters.fleet.admin_timeout_s)
        core = RouterCore(config, settings, router_id=router_id, learner=learner, coordinator=coordinator)
        self._live = _LiveRouter(core)

    def __serve_build_asgi_app__(self) -> Any:
        """Hand the application to Serve."""
        return self._live
