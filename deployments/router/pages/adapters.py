"""`/admin/adapters`, and vLLM's own pages for loading adapters: changes go to the coordinator.

What is there is told from the router's own picture, so that it can be asked while the coordinator is away.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from cluster.entities.adapters import AdapterCard
from cluster.replay.codec import encode
from deployments.adapter_messages import CatalogueAnswer
from deployments.router.adapters.coordinator import CoordinatorAwayError
from deployments.router.adapters.view import Adapters
from deployments.router.core import RouterCore
from deployments.router.wire.errors import ApiError, bad_request, overloaded
from deployments.router.wire.responder import Responder

PATH = "/admin/adapters"
LOAD_PATH = "/v1/load_lora_adapter"
UNLOAD_PATH = "/v1/unload_lora_adapter"
VLLM_PATHS = (LOAD_PATH, UNLOAD_PATH)


class AdapterAdmin:
    """Answers to somebody whose admin key was checked."""

    def __init__(self, core: RouterCore) -> None:
        self._core = core

    async def handle(self, method: str, path: str, body: bytes, responder: Responder) -> None:
        """Answer `/admin/adapters…` or one of vLLM's pages.

        Raises:
            ApiError: 404 for what is not there, 503 while the coordinator is away.
        """
        if path in VLLM_PATHS:
            if method != "POST":
                raise _not_here(method, path)
            await (self._load if path == LOAD_PATH else self._unload)(_object(body), responder)
            return
        adapters, name = self._adapters(), path.removeprefix(PATH).strip("/")
        name = name.rpartition(":")[2]
        if method == "GET" and not name:
            await responder.json(200, self._all(adapters))
        elif method == "GET":
            await responder.json(200, self._one(adapters, name))
        elif method == "POST" and not name:
            fields = _object(body)
            given = fields.pop("name", None)
            if not isinstance(given, str) or not given:
                raise bad_request("`name` must be the adapter's name.", param="name")
            await self._change("add", given, fields, responder)
        elif method == "POST":
            await self._change("update", name, _object(body), responder)
        elif method == "DELETE" and name:
            await self._change("remove", name, {}, responder)
        else:
            raise _not_here(method, path)

    async def _load(self, fields: dict[str, Any], responder: Responder) -> None:
        """VLLM's `POST /v1/load_lora_adapter`.

        Raises:
            ApiError: as vLLM's, 400 for what is malformed or there already.
        """
        self._adapters()
        name, source = fields.get("lora_name"), fields.get("lora_path")
        if not isinstance(name, str) or not name or not isinstance(source, str) or not source:
            message = "Both 'lora_name' and 'lora_path' must be provided."
            raise bad_request(message, code="InvalidUserInput")
        if fields.get("is_3d_lora_weight"):
            message = "`is_3d_lora_weight` is not served here: weights of fused experts stay with vLLM."
            raise bad_request(message, param="is_3d_lora_weight")
        base, _, adapter = name.rpartition(":")
        wanted: dict[str, Any] = {"source": source, "replace": bool(fields.get("load_inplace"))}
        if base:
            wanted["base_model"] = base
        answer = await self._ask("add", adapter, wanted)
        if answer.status == 200:
            text = f"Success: LoRA adapter '{name}' added successfully."
            await responder.whole(200, "text/plain; charset=utf-8", text.encode())
        elif answer.content["error"]["code"] == "adapter_exists":
            message = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the LoRA adapter "
            )
            raise bad_request(message + "in place, set 'load_inplace' to true.", code="InvalidUserInput")
        else:
            await responder.json(answer.status, answer.content)

    async def _unload(self, fields: dict[str, Any], responder: Responder) -> None:
        """VLLM's `POST /v1/unload_lora_adapter`; unlike there, what it took is free afterwards.

        Raises:
            ApiError: as vLLM's, 404 for an unknown adapter.
        """
        self._adapters()
        name = fields.get("lora_name")
        if not isinstance(name, str) or not name:
            raise bad_request("'lora_name' must be provided.", code="InvalidUserInput")
        answer = await self._ask("remove", name.rpartition(":")[2], {})
        if answer.status == 200:
            text = f"Success: LoRA adapter '{name}' removed successfully."
            await responder.whole(200, "text/plain; charset=utf-8", text.encode())
        elif answer.status == 404:
            message = f"The lora adapter '{name}' cannot be found."
            raise ApiError(status=404, message=message, code="NotFoundError")
        else:
            await responder.json(answer.status, answer.content)

    async def _change(
        self, operation: str, name: str, fields: Mapping[str, Any], responder: Responder
    ) -> None:
        answer = await self._ask(operation, name, fields)
        await responder.json(answer.status, answer.content)

    async def _ask(self, operation: str, name: str, fields: Mapping[str, Any]) -> CatalogueAnswer:
        coordinator = self._core.coordinator
        if coordinator is None:
            raise overloaded("No coordinator of adapters runs here.", status=503, retry_after_s=5)
        try:
            answer = await coordinator.change(operation, name, fields)
        except CoordinatorAwayError as error:
            message = f"The coordinator of adapters is away, and the catalogue stays as it is: {error}"
            raise overloaded(message, status=503, retry_after_s=3) from error
        if answer.catalogue is not None:
            self._adapters().names.take(answer.catalogue)
        return answer

    def _adapters(self) -> Adapters:
        if self._core.adapters is None:
            message = "No pool has adapters here (pools.NAME.adapters)."
            raise ApiError(status=404, message=message, code="no_adapters")
        return self._core.adapters

    def _all(self, adapters: Adapters) -> dict[str, Any]:
        published = adapters.names.published
        return {
            "object": "list",
            "catalogue_version": adapters.names.catalogue.version,
            "data": [shown(adapters, card) for card in adapters.names.catalogue.adapters],
            "coordinator": None
            if published is None
            else {
                "age_s": max(0.0, self._core.wall_s() - published.at_s),
                "nodes": [encode(node) for node in published.nodes],
            },
        }

    def _one(self, adapters: Adapters, name: str) -> dict[str, Any]:
        card = adapters.names.card(name)
        if card is None:
            known = ", ".join(card.name for card in adapters.names.catalogue.adapters[:30]) or "none"
            message = f"There is no adapter {name!r}. Adapters: {known}."
            raise ApiError(status=404, message=message, code="adapter_not_found")
        return shown(adapters, card)


def shown(adapters: Adapters, card: AdapterCard) -> dict[str, Any]:
    """An adapter and where it lies."""
    fields: dict[str, Any] = encode(card)
    return {
        "object": "adapter",
        "id": f"{card.base_model}:{card.name}",
        **fields,
        "residency": residency(adapters, card.name),
    }


def residency(adapters: Adapters, name: str) -> list[dict[str, Any]]:
    """Where an adapter lies, replica by replica."""
    return [
        {"replica": report.replica_id, "pool": report.pool, "tier": tier.value, "pinned": pinned}
        for report, tier, pinned in adapters.names.residency(name)
    ]


def model_entries(adapters: Adapters, created_s: int) -> list[dict[str, Any]]:
    """Adapters in OpenAI's list of models."""
    entries: list[dict[str, Any]] = []
    for model in adapters.names.bases:
        common = {"object": "model", "created": created_s, "owned_by": "tidemill", "parent": model}
        entries += [{"id": name, **common, "root": model} for name in adapters.names.open_names(model)]
        entries += [
            {
                "id": f"{model}:{card.name}",
                **common,
                "root": card.name,
                "tidemill": {
                    "sha256": card.sha256,
                    "rank": card.rank,
                    "bytes": card.bytes,
                    "pinned": card.pinned,
                    "tags": card.tags,
                    "residency": residency(adapters, card.name),
                },
            }
            for card in adapters.names.cards(model)
        ]
    return entries


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The request body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(found, dict):
        raise bad_request("The request body must be a JSON object.")
    return found


def _not_here(method: str, path: str) -> ApiError:
    message = (
        f"There is no {method} {path}. Here are GET and POST {PATH}, GET, POST and DELETE {PATH}/NAME, and "
        f"POST {LOAD_PATH} and {UNLOAD_PATH}."
    )
    return ApiError(status=404, message=message, code="not_found")
