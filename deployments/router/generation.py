"""One request for tokens, from its signals to its last byte.

Cache, path, replica, attempts, relay, and at the end one decision record. Whatever happens, counters are
released, leases given back and the record written, because each step cleans up after itself.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from cluster.entities.decision import Attempt, DecisionRecord, PathDecision, ReplicaDecision
from cluster.entities.kv import KVTicket
from cluster.entities.pool import ReplicaId, ReplicaReport, Role
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path
from cluster.entities.timeline import Timeline
from cluster.entities.workload import Surface
from deployments.messages import REQUEST_ID
from deployments.router.cache_client import (
    CachedAnswer,
    CacheMiss,
    is_cacheable,
    may_look_up,
    with_new_id,
)
from deployments.router.core import PREFILLING, RouterCore
from deployments.router.energy import EnergyEntry
from deployments.router.errors import ApiError, overloaded
from deployments.router.grant import Grant, Grants
from deployments.router.relay import Relay, Relayed
from deployments.router.requests import ParsedRequest, answer_body, prefill_body
from deployments.router.responder import Responder
from deployments.router.upstream import ReplicaError

_BACK_OFF_S = 0.3
_QUEUED_S = 0.001
"""A grant that took longer was waited for."""


class Generation:
    """The state of one request."""

    def __init__(
        self,
        core: RouterCore,
        request: ParsedRequest,
        responder: Responder,
        *,
        headers: Mapping[str, str],
        tenant: str,
        arrived_at_s: float,
    ) -> None:
        """Take a parsed request; `run` answers it."""
        self._core = core
        self._request = request
        self._responder = responder
        self._client_headers = headers
        self._arrived_at_s = arrived_at_s
        self._arrived_wall_s = core.wall_s()
        self.signals = core.signals(request, tenant)
        self.decision_id = core.new_decision_id()
        self._cache = "bypass"
        self._miss: CacheMiss | None = None
        self._path: Path | None = None
        self._replica: ReplicaDecision | None = None
        self._path_decision: PathDecision | None = None
        self._prefill: ReplicaDecision | None = None
        self._attempts: list[Attempt] = []
        self._reasons: list[Reason] = []
        self._dispatched_at_s: float | None = None
        self._relayed: Relayed | None = None
        self._error: str | None = None
        self._energy: EnergyEntry | None = None
        self._debug = headers.get("x-tidemill-debug") == "1"
        responder.headers["x-tidemill-decision-id"] = self.decision_id
        responder.headers["x-tidemill-model"] = request.model

    async def run(self) -> None:
        """Answer the request.

        Raises:
            ApiError: nobody could.
        """
        try:
            async with asyncio.timeout(self._core.config.gateway.request_timeout_s):
                if not await self._answer_from_cache():
                    await self._answer_from_engines()
        except TimeoutError:
            self._error = "timed out"
            limit_s = self._core.config.gateway.request_timeout_s
            raise ApiError(status=504, message=f"No answer within {limit_s:.0f} s.", code="timeout") from None
        except asyncio.CancelledError:
            self._reasons.append(Reason.CLIENT_LEFT)
            self._error = "client left"
            raise
        except ApiError as error:
            self._error = error.message
            raise

    def finish(self) -> None:
        """Write the record; called once, after the response is out or the client has gone."""
        record = self._record()
        self._core.decisions.add(record)
        self._core.metrics.request(record)
        self._core.demand.finished(record)

    async def _answer_from_cache(self) -> bool:
        config = self._core.config.semantic_cache
        headers = self._responder.headers
        headers["x-tidemill-cache"] = "bypass"
        if not config.enabled or not is_cacheable(self._request, self._client_headers):
            self._reasons.append(Reason.CACHE_BYPASS)
            return False
        if not may_look_up(self._client_headers):
            self._reasons.append(Reason.CACHE_BYPASS)
            return False
        found = await self._core.cache.look_up(self._request, self.signals.tenant)
        if found is None:
            self._reasons.append(Reason.CACHE_UNAVAILABLE)
            return False
        if isinstance(found, CacheMiss):
            self._cache = headers["x-tidemill-cache"] = "miss"
            self._miss = found
            self._reasons.append(Reason.CACHE_MISS)
            return False
        await self._replay(found)
        return True

    async def _replay(self, found: CachedAnswer) -> None:
        self._cache = found.tier
        self._path = Path.CACHED
        self._reasons.append(Reason.CACHE_HIT)
        self._responder.headers |= {
            "x-tidemill-cache": found.tier,
            "x-tidemill-path": Path.CACHED.value,
            "age": str(int(float(found.age_s))),
        }
        body = with_new_id(found.body, lambda: self.decision_id[2:])
        self._relayed = Relayed(first_token_at_s=self._core.now_s())
        await self._responder.whole(200, found.content_type, body)
        self._relayed.ended_at_s = self._core.now_s()

    async def _answer_from_engines(self) -> None:
        self._core.demand.arrived(self.signals.model, self.signals.prompt_tokens)
        try:
            await self._attempt_until_answered()
        finally:
            # Shielded: a client that leaves must not take the lease with it.
            if self._miss is not None:
                await asyncio.shield(asyncio.ensure_future(self._settle_cache(self._miss)))

    async def _settle_cache(self, miss: CacheMiss) -> None:
        relayed = self._relayed
        if relayed is None or relayed.cacheable_body is None:
            await self._core.cache.release(miss)
            return
        await self._core.cache.store(
            miss,
            tenant=self.signals.tenant,
            model=self._request.model,
            content_type=relayed.content_type,
            body=relayed.cacheable_body,
        )

    async def _attempt_until_answered(self) -> None:
        exclude: set[ReplicaId] = set()
        attempts_max = self._core.config.gateway.max_attempts
        grants = Grants(self._core)
        for number in range(1, attempts_max + 1):
            asked_at_s = self._core.now_s()
            grant = await grants.take(self.signals, exclude, may_split=number == 1)
            if self._core.now_s() - asked_at_s > _QUEUED_S:
                self._reasons.append(Reason.QUEUED)
            failure = await self._attempt(grant)
            if failure is None:
                return
            exclude.add(grant.view.replica_id)
            self._reasons.append(Reason.RETRIED)
            self._core.metrics.retry(Reason.REPLICA_FAILED)
            self._core.metrics.replica_failed(grant.view.pool)
            if number == attempts_max:
                raise _gave_up(attempts_max, failure)
            # A dying replica answers errors for a moment before it is gone from the table.
            await asyncio.sleep(_BACK_OFF_S * number)
            if not self._anybody_left(exclude):
                exclude.clear()

    def _anybody_left(self, exclude: set[ReplicaId]) -> bool:
        """Whether a replica remains on which this request has not failed, or none is known at all."""
        known = {report.replica_id for report in self._core.picture.reports(self._request.model)}
        return not known or bool(known - exclude)

    async def _attempt(self, grant: Grant) -> ReplicaError | None:
        """One try on one replica; the failure if another should be asked."""
        self._note(grant)
        started_at_s = self._core.now_s()
        report = grant.dispatch.replica
        outcome, reason = "failed", None
        try:
            ticket = await self._fetch_ticket() if grant.disaggregated else None
            started_at_s = self._core.now_s()
            if grant.disaggregated and ticket is None:
                grant.dispatch.recompute(max(0, self.signals.prompt_tokens - grant.view.cached_tokens))
            self._path = Path.COMBINED if ticket is None else Path.DISAGGREGATED
            self._responder.headers |= {
                "x-tidemill-path": self._path.value,
                "x-tidemill-pool": report.pool,
                "x-tidemill-replica": report.replica_id,
            }
            await self._send_to(grant, ticket)
        except ReplicaError as error:
            reason = Reason.REPLICA_FAILED
            if error.unreachable:
                self._core.picture.failed(report.replica_id, now_s=self._core.now_s(), draw=self._core.draw())
            if self._responder.started:
                outcome = "broken"
                message = f"The engine failed in the middle of the answer: {error}"
                raise ApiError(status=502, message=message, code="engine_failed") from error
            return error
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        else:
            outcome = "answered"
            self._core.picture.succeeded(report.replica_id)
            return None
        finally:
            grant.dispatch.release()
            self._core.queue.leave()
            self._attempts.append(
                Attempt(
                    replica_id=report.replica_id,
                    role=report.role.value,
                    outcome=outcome,
                    reason=reason,
                    started_at_s=started_at_s,
                    ended_at_s=self._core.now_s(),
                )
            )

    def _note(self, grant: Grant) -> None:
        self._replica = grant.decision
        self._path_decision = grant.path or self._path_decision
        if self._dispatched_at_s is None:
            self._dispatched_at_s = self._core.now_s()
        if grant.view.role is Role.PREFILL:
            self._reasons.append(Reason.LAST_RESORT)

    async def _send_to(self, grant: Grant, ticket: KVTicket | None) -> None:
        report = grant.dispatch.replica
        relay = Relay(
            self._core,
            self._request,
            self._responder,
            grant.dispatch,
            annotate=self._add_energy if self._debug else None,
        )
        uncached = max(0, self.signals.prompt_tokens - grant.view.cached_tokens)
        self._energy = self._core.energy.begin(
            self.decision_id, self._energy_entry(report, 0 if ticket else uncached, relay.tokens)
        )
        body = answer_body(self._request, None if ticket is None else ticket.params)
        try:
            response: aiohttp.ClientResponse = await self._core.upstream.open(
                report.url + self._request.surface.value, body, self._engine_headers()
            )
        except BaseException:
            self._core.energy.end(self._energy)
            raise
        try:
            self._relayed = relay.relayed
            await relay.run(response, keep_for_cache=self._miss is not None and not self._debug)
        finally:
            self._core.energy.end(self._energy)
            # Closing an unfinished response closes the connection, and vLLM aborts the request.
            response.close()
        if self._relayed.prompt_tokens:
            self._core.learn_tokens(self._request, self._relayed.prompt_tokens)

    async def _fetch_ticket(self) -> KVTicket | None:
        """Let a prefill replica compute the prompt; None if that did not work, for whatever reason."""
        candidates = self._core.picture.views(self.signals, PREFILLING)
        decision = self._prefill = self._core.choose(self.signals, candidates)
        chosen = decision.choice.replica_id
        if chosen is None:
            self._reasons.append(Reason.NO_PREFILL_REPLICA)
            return None
        dispatch = self._core.picture.dispatch(chosen, self.signals, computed_elsewhere=False)
        started_at_s = self._core.now_s()
        failure: Reason | None = None
        uncached = max(0, self.signals.prompt_tokens)
        energy = self._core.energy.begin(
            self.decision_id, self._energy_entry(dispatch.replica, uncached, lambda: 0)
        )
        try:
            timeout_s = self._core.config.routing.disaggregation.prefill_timeout_s
            async with asyncio.timeout(timeout_s):
                status, answer = await self._core.upstream.json(
                    dispatch.replica.url + self._request.surface.value,
                    prefill_body(self._request),
                    self._engine_headers(),
                )
            params = answer.get("kv_transfer_params") if isinstance(answer, dict) else None
            if status != 200 or not isinstance(params, dict) or not params:
                # A request that is wrong gets its error from the answering replica, in the client's form.
                failure = Reason.TICKET_MISSING if status == 200 else Reason.PREFILL_FAILED
                return None
            self._core.picture.succeeded(chosen)
            return KVTicket(producer=chosen, params=params, issued_at_s=self._core.now_s())
        except TimeoutError:
            failure = Reason.PREFILL_TIMED_OUT
            self._core.picture.failed(chosen, now_s=self._core.now_s(), draw=self._core.draw())
            return None
        except ReplicaError as error:
            failure = Reason.PREFILL_FAILED
            if error.unreachable:
                self._core.picture.failed(chosen, now_s=self._core.now_s(), draw=self._core.draw())
            self._core.metrics.replica_failed(dispatch.replica.pool)
            return None
        finally:
            self._core.energy.end(energy)
            dispatch.release()
            if failure is not None:
                self._reasons.append(failure)
            self._attempts.append(
                Attempt(
                    replica_id=chosen,
                    role=Role.PREFILL.value,
                    outcome="failed" if failure else "prefilled",
                    reason=failure,
                    started_at_s=started_at_s,
                    ended_at_s=self._core.now_s(),
                )
            )

    def _energy_entry(
        self, replica: ReplicaReport, prefill_tokens: int, tokens: Callable[[], int]
    ) -> EnergyEntry:
        return EnergyEntry(
            replica_id=replica.replica_id,
            pool=replica.pool,
            model=self._request.model,
            tenant=self.signals.tenant,
            prefill_tokens=prefill_tokens,
            began_at_s=self._core.now_s(),
            tokens=tokens,
        )

    def _add_energy(self, usage: dict[str, Any]) -> None:
        """What `x-tidemill-debug: 1` asks for."""
        found = None if self._energy is None else self._core.energy.energy_of(self._energy)
        usage["energy_j"], usage["energy_source"] = found if found is not None else (None, None)

    def _engine_headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", REQUEST_ID: self.decision_id}
        if self._request.surface is Surface.MESSAGES and "anthropic-version" in self._client_headers:
            headers["anthropic-version"] = self._client_headers["anthropic-version"]
        return headers

    def _record(self) -> DecisionRecord:
        relayed = self._relayed or Relayed()
        return DecisionRecord(
            decision_id=self.decision_id,
            router=self._core.router_id,
            at_wall_s=self._arrived_wall_s,
            signals=self.signals,
            cache=self._cache,
            path=self._path,
            replica=self._replica,
            path_decision=self._path_decision,
            prefill=self._prefill,
            attempts=tuple(self._attempts),
            reasons=tuple(self._reasons),
            status=self._responder.status,
            error=self._error,
            timeline=Timeline(
                arrived_at_s=self._arrived_at_s,
                dispatched_at_s=self._dispatched_at_s,
                first_token_at_s=relayed.first_token_at_s,
                ended_at_s=relayed.ended_at_s,
                output_tokens=relayed.output_tokens,
            ),
            prompt_tokens=relayed.prompt_tokens,
            cached_tokens=relayed.cached_tokens,
            output_tokens=relayed.output_tokens,
            config_hash=self._core.config_hash,
        )


def _gave_up(attempts: int, failure: ReplicaError) -> ApiError:
    message = f"{attempts} attempts failed; the last one: {failure}"
    if failure.overloaded:
        return overloaded(message, status=503, retry_after_s=5)
    return ApiError(status=502, message=message, code="engine_failed")
