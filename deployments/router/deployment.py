"""The router deployment: the ASGI application inside a Serve replica, behind Serve's ingress."""

import asyncio
import contextlib
import logging
from functools import partial
from typing import Any

from ray import serve

from cluster.config import TidemillConfig
from deployments.directory.actor import DirectoryClient
from deployments.router.asgi import RouterApp
from deployments.router.core import RouterCore, RouterSettings
from deployments.router.responder import Receive, Scope, Send

logger = logging.getLogger("tidemill.router")

__all__ = ["RouterSettings", "router_deployment"]


class _LiveRouter:
    """The application with its connections and its watch on the fleet, opened by ASGI's lifespan."""

    def __init__(self, core: RouterCore) -> None:
        self._core = core
        self._app = RouterApp(core)
        self._watch: asyncio.Task[Any] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._core.start()
        client = DirectoryClient()
        self._watch = asyncio.create_task(client.watch(self._core.router_id, self._core.apply))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch
        await self._core.close()
        await send({"type": "lifespan.shutdown.complete"})


def _build(config: TidemillConfig, settings: RouterSettings) -> _LiveRouter:
    """Runs in the replica."""
    router_id = f"router-{serve.get_replica_context().replica_id.unique_id}"
    return _LiveRouter(RouterCore(config, settings, router_id=router_id))


def router_deployment(config: TidemillConfig, settings: RouterSettings) -> serve.Deployment:
    """The deployment; its replicas build their application when they start."""
    return serve.deployment(serve.ingress(partial(_build, config, settings))(), name="Router")
