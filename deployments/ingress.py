"""What Serve's HTTP server in a router replica need not do, because the router does it itself.

Serve watches every connection for a client that leaves, with two tasks and a queue for each request. The
router watches as well, because it knows whether the answer was complete (`router/asgi.py`). Serve's own watch
is switched off with the header that it has for this, put on here where no client can forget it. Serve finds
this module by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, in clusters that `tidemill up` starts.
"""

from typing import Any

from ray import serve
from ray.serve._private.constants import SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

_ROUTER = "Router"
"""The deployment whose application watches itself."""
_WATCHED_BY_US = (SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER.encode(), b"?1")


class RouterWatchesClients:
    """Tells Serve that it need not watch."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with the header."""
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], _WATCHED_BY_US]
        await self._app(scope, receive, send)


def middlewares() -> list[Any]:
    """Called by Serve when an HTTP server starts; a proxy's and another replica's stay as they are."""
    try:
        deployment = serve.get_replica_context().deployment
    except RayServeException:
        return []
    return [Middleware(RouterWatchesClients)] if deployment == _ROUTER else []
