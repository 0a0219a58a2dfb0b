"""The short way from the HTTP server of a router replica to the router.

Serve wraps every request that its ingress hands to a replica: a context, a semaphore, counters, a request id
and a watch for clients that leave. The router bounds, counts, names and watches its requests itself, and the
wrapping is a good part of what a short answer costs. So requests go past it, by the hook that Serve has for
middleware (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH); those for Serve's own addresses do not.

Serve then counts no request of the router's as ongoing. Nothing here asks for that: how many routers there
are is configured, and a replica that leaves waits for its connections, because its HTTP server ends only when
the last answer is out.
"""

from typing import Any

from ray import serve
from ray.serve._private.constants import RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

_ROUTER = "Router"
"""The deployment whose application stands on its own."""
_SERVES_OWN = "/-/"
PAST_SERVE = "tidemill.past_serve"
"""In the scope of a request that has come this way."""


class ShortWay:
    """Hands requests to the application that this replica runs, and what is Serve's to Serve."""

    def __init__(self, app: ASGIApp) -> None:
        """`app` is Serve's way to the same application."""
        self._serve = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # Asked for each request: Serve starts the server before it tells.
        application = serve.get_replica_context().servable_object
        under_a_prefix = scope.get("root_path")
        if scope["type"] != "http" or under_a_prefix or scope["path"].startswith(_SERVES_OWN):
            application = None
        if application is not None:
            scope[PAST_SERVE] = True
        await (application or self._serve)(scope, receive, send)


def middlewares() -> list[Any]:
    """Called by Serve when an HTTP server starts; a proxy's and another replica's stay as they are."""
    try:
        deployment = serve.get_replica_context().deployment
    except RayServeException:
        return []
    # With a thread of its own the application lives on another event loop than the server.
    ours = deployment == _ROUTER and not RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD
    return [Middleware(ShortWay)] if ours else []
