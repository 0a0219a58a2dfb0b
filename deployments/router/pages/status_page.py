"""The page at `/`: one file without anything from outside, kept fresh by server-sent events.

Who may open the port may see the fleet and sums over all requests, as in `/metrics`. Single requests, even
without their words and whoever sent them, say what others do and when: they ask for the admin key. They are
shown without it only where there are no tenants to keep apart, the gateway listens on a loopback address, and
the page was opened under a loopback name by somebody whom no proxy stands in for (docs/operations.md).
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from deployments.router.core import RouterCore
from deployments.router.records.status import pools, provisioner
from deployments.router.wire.errors import ApiError, overloaded
from deployments.router.wire.responder import Responder

EVENTS_PATH = "/status/events"

_PAGE = Path(__file__).parent / "status.html"
_STREAM_S = 20.0
"""After that the page asks again: an open page must not keep a router that leaves."""
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


class StatusPage:
    """The page and its events."""

    def __init__(self, core: RouterCore) -> None:
        """Read the page.

        Args:
            core: the router's services.
        """
        self._core = core
        self._html = _PAGE.read_bytes()
        self._policy = _content_security_policy(self._html)
        self._subscribers = 0
        self._rendered: dict[bool, tuple[float, bytes]] = {}
        self._pools = {
            name: {
                "model": pool.model,
                "role": pool.role.value,
                "gpu_type": pool.gpu_type,
                "min": pool.replicas.min,
                "max": pool.replicas.max,
            }
            for name, pool in core.config.pools.items()
        }

    async def page(self, responder: Responder) -> None:
        """The page itself."""
        responder.headers |= {
            "content-security-policy": self._policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }
        await responder.whole(200, "text/html; charset=utf-8", self._html)

    async def events(self, headers: Mapping[str, str], responder: Responder) -> None:
        """What is on the page, again and again for a while.

        Raises:
            ApiError: 401 for a wrong key, 503 if too many watch.
        """
        decisions = self._may_see_decisions(headers)
        config = self._core.config.status_page
        if self._subscribers >= config.subscribers_max:
            raise overloaded("Too many pages are open.", status=503, retry_after_s=10)
        self._subscribers += 1
        try:
            await responder.start(
                200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}
            )
            until_s = self._core.now_s() + _STREAM_S
            while self._core.now_s() < until_s:
                await responder.chunk(self._event(decisions=decisions))
                await asyncio.sleep(config.period_s)
            await responder.end()
        finally:
            self._subscribers -= 1

    def _event(self, *, decisions: bool) -> bytes:
        """The event of this period, made once for all who watch."""
        now_s = self._core.now_s()
        made_at_s, event = self._rendered.get(decisions, (-1.0, b""))
        if not event or now_s - made_at_s >= self._core.config.status_page.period_s / 2:
            event = b"data: " + orjson.dumps(self._content(decisions=decisions)) + b"\n\n"
            self._rendered[decisions] = (now_s, event)
        return event

    def _content(self, *, decisions: bool) -> dict[str, Any]:
        core = self._core
        board = core.status
        wall_s = core.wall_s()
        return {
            "at_wall_s": wall_s,
            "period_s": core.config.status_page.period_s,
            "router": core.router_id,
            "routers": core.config.gateway.router_replicas,
            "up_s": round(wall_s - board.started_at_s),
            "models": {model: core.picture.ready(model) for model in core.config.models},
            "pools": pools(core.picture, self._pools),
            "provisioner": provisioner(core.picture, wall_s),
            "requests": board.requests(
                core.now_s(), in_flight=core.queue.in_flight, queued=core.queue.queued
            ),
            "decisions": board.decisions() if decisions else None,
        }

    def _may_see_decisions(self, headers: Mapping[str, str]) -> bool:
        """Whether single requests may be shown.

        Raises:
            ApiError: 401, there is a key and it is wrong.
        """
        core = self._core
        given = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if given:
            expected = core.settings.admin_key
            if expected and hmac.compare_digest(given.encode(), expected.encode()):
                return True
            raise ApiError(status=401, message="This is not the admin key.", code="invalid_admin_key")
        return (
            core.config.status_page.decisions_without_key
            and not core.config.tenants.enabled
            and _is_loopback(core.config.gateway.host)
            and _is_loopback(_name_of(headers.get("host", "")))
            and all(_is_loopback(headers[name].strip()) for name in _FORWARDED if name in headers)
        )


def _name_of(host: str) -> str:
    """A `host` header without its port."""
    return re.sub(r":\d+$", "", host).strip("[]")


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _content_security_policy(html: bytes) -> str:
    """Nothing but the page's own style and script, by their hashes, and requests to the gateway."""

    def sources(tag: bytes) -> str:
        found = re.findall(b"<" + tag + b">(.*?)</" + tag + b">", html, flags=re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(part).digest()).decode() for part in found)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; style-src {sources(b'style')}; script-src {sources(b'script')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
