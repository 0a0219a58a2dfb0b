"""Surfaces that generate nothing: embeddings go to the cache's encoder, the rest to any engine."""

import aiohttp
import orjson

from cluster.entities.pool import ReplicaId
from deployments.messages import SEMANTIC_CACHE
from deployments.router.core import RouterCore
from deployments.router.generation.grant import Grants, no_replica
from deployments.router.wire.errors import ApiError, bad_request, model_not_found, overloaded
from deployments.router.wire.requests import ParsedRequest
from deployments.router.wire.responder import Responder
from deployments.router.wire.upstream import ReplicaError


class Passthrough:
    """Relays unary requests."""

    def __init__(self, core: RouterCore) -> None:
        self._core = core

    async def embeddings(self, raw: bytes, responder: Responder) -> None:
        """Relay to the encoder.

        Raises:
            ApiError: 404 for another model, 503 if the encoder is not there.
        """
        encoder = self._core.config.semantic_cache.encoder.model
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise bad_request(f"The request body is not valid JSON: {error}.", code="invalid_json") from error
        asked = body.get("model", encoder) if isinstance(body, dict) else encoder
        if asked != encoder:
            raise model_not_found(asked, [encoder])
        url = self._core.picture.service_url(SEMANTIC_CACHE)
        if url is None:
            raise overloaded("The encoder is not running.", status=503, retry_after_s=5)
        timeout = aiohttp.ClientTimeout(total=self._core.config.gateway.request_timeout_s)
        try:
            async with self._core.upstream.session.post(
                f"{url}/v1/embeddings",
                data=raw,
                headers={"content-type": "application/json"},
                timeout=timeout,
            ) as response:
                content = await response.read()
                if "retry-after" in response.headers:
                    responder.headers["retry-after"] = response.headers["retry-after"]
                await responder.whole(response.status, "application/json", content)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise overloaded(f"The encoder did not answer: {error}", status=503, retry_after_s=5) from error

    async def to_any_replica(self, request: ParsedRequest, tenant: str, responder: Responder) -> None:
        """Relay to a replica of the model, asking another if one fails.

        Raises:
            ApiError: 503 if no replica answers.
        """
        signals = self._core.signals(request, tenant)
        grants = Grants(self._core)
        failed: set[ReplicaId] = set()
        failure = ""
        for _ in range(self._core.config.gateway.max_attempts):
            decision = self._core.choose_answering(signals, failed)
            if decision.choice.replica_id is None:
                if failure:
                    break
                raise no_replica(decision)
            grant = grants.grant(signals, decision, may_split=False)
            report = grant.dispatch.replica
            responder.headers |= {
                "x-tidemill-model": request.model,
                "x-tidemill-pool": report.pool,
                "x-tidemill-replica": report.replica_id,
            }
            try:
                response = await self._core.upstream.open(
                    report.url + request.surface.value,
                    orjson.dumps(request.body),
                    {"content-type": "application/json"},
                )
                try:
                    content = await self._core.upstream.read(response)
                finally:
                    response.close()
            except ReplicaError as error:
                failed.add(report.replica_id)
                failure = str(error)
                continue
            finally:
                grant.dispatch.release()
            content_type = response.headers.get("content-type", "application/json")
            await responder.whole(response.status, content_type, content)
            return
        raise ApiError(status=502, message=f"No replica answered: {failure}", code="engine_failed")
