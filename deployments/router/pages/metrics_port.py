"""A router's metrics on a port of their own, so that each router can be scraped and not whichever answers.

Behind the ingress a scrape meets some router, another one each time, and counters seem to fall. Every router
tells the directory where its port is, and `/admin/targets` tells Prometheus.
"""

import asyncio
import contextlib
import time
from typing import Any

from deployments.directory.actor import DirectoryClient
from deployments.http_port import HttpPort, own_host
from deployments.messages import ROUTER, ServiceReport
from deployments.router.core import RouterCore
from deployments.router.pages.admin import Admin
from deployments.router.wire.responder import Receive, Responder, Scope, Send

_GRACE_S = 1.0
_GOODBYE_TIMEOUT_S = 2.0


class _MetricsPage:
    """The application. An object: uvicorn takes a bound method for an application of the old ASGI 2."""

    def __init__(self, core: RouterCore) -> None:
        self._admin = Admin(core)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        responder = Responder(send)
        if scope["path"] == "/metrics":
            await self._admin.metrics(responder)
        else:
            await responder.json(404, {"error": {"message": "Only /metrics is here."}})


class MetricsPort:
    """The port, and the report of where it is."""

    def __init__(self, core: RouterCore, directory: DirectoryClient) -> None:
        self._core = core
        self._directory = directory
        self._http = HttpPort(_MetricsPage(core), host=own_host())
        self._reports: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        """Listen, and say so."""
        await self._http.start()
        self._reports = asyncio.create_task(self._directory.keep_reporting("report_service", self._report))

    async def close(self) -> None:
        """Leave the directory and stop listening."""
        if self._reports is not None:
            self._reports.cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_GOODBYE_TIMEOUT_S):
                await self._directory.call("leave", self._core.router_id)
        await self._http.stop(grace_s=_GRACE_S)

    async def _report(self) -> ServiceReport:
        return ServiceReport(
            service=ROUTER,
            replica_id=self._core.router_id,
            url=self._http.url,
            observed_at_s=time.time(),
        )
