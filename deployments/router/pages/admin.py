"""What is asked about the cluster rather than of a model: health, models, metrics, fleet, decisions."""

import hmac
from dataclasses import asdict
from typing import Any

import orjson

from deployments.router.core import RouterCore
from deployments.router.pages.adapters import PATH as ADAPTERS
from deployments.router.pages.adapters import VLLM_PATHS, AdapterAdmin, model_entries
from deployments.router.pages.scrape_targets import target_groups
from deployments.router.pages.usage import usage
from deployments.router.tenants.keys import Caller
from deployments.router.wire.errors import ApiError, bad_request, model_not_found
from deployments.router.wire.responder import Responder

_DECISIONS = "/admin/decisions/"


class Admin:
    """GET endpoints, and `/admin/*` behind the admin key."""

    def __init__(self, core: RouterCore) -> None:
        self._core = core
        self._created_s = int(core.wall_s())
        self._adapters = AdapterAdmin(core)

    async def health(self, responder: Responder) -> None:
        """The process is alive."""
        await responder.json(200, {"status": "ok"})

    async def ready(self, responder: Responder) -> None:
        """Whether a request for each model would be answered."""
        models = {model: self._core.picture.ready(model) for model in self._core.config.models}
        await responder.json(200 if all(models.values()) else 503, {"models": models})

    async def metrics(self, responder: Responder) -> None:
        """Prometheus."""
        models = self._core.models
        if models is not None:
            self._core.metrics.model_state(self._core.wall_s() - models.heard_at_s)
        text = self._core.metrics.text(in_flight=self._core.queue.in_flight, queued=self._core.queue.queued)
        await responder.whole(200, "text/plain; version=0.0.4; charset=utf-8", text)

    async def models(self, responder: Responder, caller: Caller | None) -> None:
        """OpenAI's list, as far as the caller may ask."""
        await responder.json(200, {"object": "list", "data": self._models(caller)})

    async def model(self, responder: Responder, name: str, caller: Caller | None) -> None:
        """One entry of the list.

        Raises:
            ApiError: 404.
        """
        entries = {entry["id"]: entry for entry in self._models(caller)}
        if name not in entries:
            raise model_not_found(name, list(entries))
        await responder.json(200, entries[name])

    def _models(self, caller: Caller | None) -> list[dict[str, Any]]:
        config = self._core.config
        served = [(model, model) for model in config.models]
        served += [(alias, model) for model, entry in config.models.items() for alias in entry.aliases]
        if config.routes_models:
            served += [(name, name) for name in config.routing.auto.goals]
        if config.semantic_cache.enabled:
            served.append((config.semantic_cache.encoder.model, config.semantic_cache.encoder.model))
        entries = [
            {
                "id": name,
                "object": "model",
                "created": self._created_s,
                "owned_by": "tidemill",
                "root": root,
                "parent": None if name == root else root,
            }
            for name, root in served
        ]
        if self._core.adapters is not None:
            entries += model_entries(self._core.adapters, self._created_s)
        if caller is None or caller.models is None:
            return entries
        return [entry for entry in entries if (entry["parent"] or entry["root"]) in caller.models]

    async def handle(self, method: str, path: str, query: bytes, body: bytes, responder: Responder) -> None:
        """Answer `/admin/*` to somebody whose key was checked.

        Raises:
            ApiError: 404 for what is not there.
        """
        if path.startswith(ADAPTERS) or path in VLLM_PATHS:
            await self._adapters.handle(method, path, body, responder)
        elif method == "GET" and path == "/admin/fleet":
            await responder.json(200, self._fleet())
        elif method == "GET" and path == "/admin/targets":
            picture = self._core.picture
            await responder.json(200, target_groups(picture.reports(), picture.services))
        elif method == "GET" and path.startswith(_DECISIONS):
            await self._decision(path.removeprefix(_DECISIONS), responder)
        elif method == "POST" and path == "/admin/cache/purge":
            await self._relay(await self._core.cache.purge(_scope(body)), responder)
        elif method == "POST" and path == "/admin/cache/inspect":
            await self._relay(await self._core.cache.inspect(_scope(body)), responder)
        elif method == "GET" and path == "/admin/cache/stats":
            await self._relay(await self._core.cache.stats(), responder)
        elif method == "GET" and path == "/admin/usage":
            await responder.json(200, await usage(self._core, query))
        else:
            message = (
                f"There is no {method} {path}. Here are GET /admin/fleet, GET /admin/decisions/ID, "
                "GET /admin/targets, GET /admin/usage, GET /admin/cache/stats, POST /admin/cache/inspect and "
                "POST /admin/cache/purge."
            )
            raise ApiError(status=404, message=message, code="not_found")

    def check_key(self, headers: dict[str, str]) -> None:
        """Refuse whoever has not the admin key.

        Raises:
            ApiError: 401.
        """
        expected = self._core.settings.admin_key
        given = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not expected or not hmac.compare_digest(given.encode(), expected.encode()):
            name = self._core.config.gateway.admin_key_env
            message = f"This asks for the admin key (Authorization: Bearer …; see {name})."
            raise ApiError(status=401, message=message, code="invalid_admin_key")

    def _fleet(self) -> dict[str, Any]:
        picture = self._core.picture
        return {
            "version": picture.version,
            "replicas": [
                {**asdict(report), "requests_in_flight": picture.in_flight(report.replica_id)}
                for report in picture.reports()
            ],
            "services": [asdict(service) for service in picture.services],
            "provisioner": None if picture.plan is None else asdict(picture.plan),
            "router": {
                "id": self._core.router_id,
                "requests_in_flight": self._core.queue.in_flight,
                "requests_queued": self._core.queue.queued,
                "config_hash": self._core.config_hash,
                "model_state_version": None if self._core.models is None else self._core.models.version,
            },
        }

    async def _decision(self, decision_id: str, responder: Responder) -> None:
        found = await self._core.decisions.find(decision_id)
        if found is None:
            message = f"No decision {decision_id!r} in this router's memory or in the log files beside it."
            raise ApiError(status=404, message=message, code="decision_not_found")
        await responder.whole(200, "application/json", found)

    async def _relay(self, answer: tuple[int, bytes], responder: Responder) -> None:
        status, content = answer
        await responder.whole(status, "application/json", content)


def _scope(body: bytes) -> dict[str, Any]:
    try:
        scope = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The request body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(scope, dict):
        raise bad_request(
            "The scope must be an object: `tenant`, `model`, `category`, `entry_id`, `text`, `similarity`."
        )
    return scope
