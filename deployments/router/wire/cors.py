"""Cross-origin requests: what browsers are told before and after they let a page talk to the gateway.

Never with credentials: a browser adds nothing of its own to such a request, so a page can do what its key
allows and no more.
"""

from collections.abc import Mapping

from cluster.config.cors import CorsConfig
from deployments.router.wire.errors import ApiError
from deployments.router.wire.responder import Responder

_REQUEST_HEADERS = frozenset(
    {
        "authorization",
        "cache-control",
        "content-type",
        "traceparent",
        "tracestate",
        "x-api-key",
        "x-request-id",
    }
)
_REQUEST_PREFIXES = ("anthropic-", "openai-", "x-stainless-", "x-tidemill-")
"""What the official clients send, and what the gateway understands."""
_ANSWER_HEADERS = ", ".join(
    (
        "retry-after",
        "x-request-id",
        *(f"x-tidemill-{name}" for name in ("decision-id", "model", "pool", "replica", "path", "cache")),
        *(f"x-tidemill-{name}" for name in ("adapter", "cache-entry", "cache-similarity", "budget-warning")),
        *(
            f"x-ratelimit-{what}-{unit}"
            for what in ("limit", "remaining", "reset")
            for unit in ("requests", "tokens")
        ),
    )
)
_PATHS = ("/v1/", "/tokenize", "/detokenize")
_METHODS = "GET, HEAD, POST"


class Cors:
    """The pages that are allowed."""

    def __init__(self, config: CorsConfig) -> None:
        """Take them from the configuration."""
        self._origins = frozenset(config.origins)
        self._max_age_s = config.max_age_s

    @classmethod
    def of(cls, config: CorsConfig) -> "Cors | None":
        """None if no page is."""
        return cls(config) if config.origins else None

    async def answered(
        self, path: str, method: str, headers: Mapping[str, str], responder: Responder
    ) -> bool:
        """Let the answer tell the browser who may see it; whether that was all it asked (a preflight).

        Raises:
            ApiError: 403, a browser asks for a page that is not allowed.
        """
        if not path.startswith(_PATHS):
            return False
        everybody = "*" in self._origins
        if not everybody:
            responder.headers["vary"] = "origin"
        origin = headers.get("origin")
        if origin is None:
            return False
        asks = method == "OPTIONS" and "access-control-request-method" in headers
        if not everybody and origin.lower() not in self._origins:
            if asks:
                message = f"Pages of {origin!r} may not ask here (gateway.cors.origins)."
                raise ApiError(status=403, message=message, code="origin_not_allowed")
            return False  # it is answered, and the browser shows the page nothing of it
        responder.headers["access-control-allow-origin"] = "*" if everybody else origin
        if not asks:
            responder.headers["access-control-expose-headers"] = _ANSWER_HEADERS
            return False
        wanted = headers.get("access-control-request-headers", "").lower().split(",")
        named = {name.strip() for name in wanted}
        allowed = {name for name in named if name in _REQUEST_HEADERS or name.startswith(_REQUEST_PREFIXES)}
        responder.headers |= {
            "access-control-allow-methods": _METHODS,
            "access-control-allow-headers": ", ".join(sorted(allowed | _REQUEST_HEADERS)),
            "access-control-max-age": str(self._max_age_s),
        }
        await responder.start(204, {})
        await responder.end()
        return True
