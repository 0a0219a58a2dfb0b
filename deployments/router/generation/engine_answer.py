"""One answer of one model's engines: replica, path, ticket, attempts, relay.

Whatever happens, counters are released, because each step cleans up after itself. A request has one of these
for every model that it asks.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp

from cluster.entities.decision import Attempt, PathDecision, ReplicaDecision
from cluster.entities.energy import EnergySource
from cluster.entities.kv import KVTicket
from cluster.entities.pool import ReplicaId, ReplicaReport, ReplicaView, Role
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path
from cluster.entities.workload import RequestSignals, Surface
from deployments.messages import REQUEST_ID
from deployments.router.core import RouterCore
from deployments.router.fleet.energy import EnergyEntry
from deployments.router.generation.adapter_request import AdapterRequest
from deployments.router.generation.going_on import Broken, go_on
from deployments.router.generation.grant import Grant, Grants
from deployments.router.generation.relay import Relay, Relayed
from deployments.router.wire.errors import ApiError, overloaded
from deployments.router.wire.requests import ParsedRequest, answer_body, prefill_body
from deployments.router.wire.responder import Responder
from deployments.router.wire.upstream import ReplicaError
from deployments.tracing import Step

_BACK_OFF_S = 0.3


class EngineAnswer:
    """The state of one answer."""

    def __init__(
        self,
        core: RouterCore,
        request: ParsedRequest,
        signals: RequestSignals,
        responder: Responder,
        *,
        decision_id: str,
        client_headers: Mapping[str, str],
        keep: bool,
        trace: Step,
        adapter: AdapterRequest | None = None,
    ) -> None:
        """Take a request for one model; `run` answers it.

        Args:
            core: the router's services.
            request: what is asked.
            signals: of the request, for this model.
            responder: where the answer goes.
            decision_id: the request's.
            client_headers: what the client sent.
            keep: whether a complete answer is kept in `relayed`.
            trace: the request's; what engines do for it is a part of it.
            adapter: the adapter that is to answer; None for the model itself.
        """
        self._core = core
        self._request = request
        self._responder = responder
        self._client_headers = client_headers
        self._decision_id = decision_id
        self._keep = keep
        self._trace = trace
        self._adapter = adapter
        self._debug = client_headers.get("x-tidemill-debug") == "1"
        self.signals = signals
        self.path: Path | None = None
        self.replica: ReplicaDecision | None = None
        self.path_decision: PathDecision | None = None
        self.prefill: ReplicaDecision | None = None
        self.attempts: list[Attempt] = []
        self.reasons: list[Reason] = []
        self.dispatched_at_s: float | None = None
        self.relayed: Relayed | None = None
        self._relay: Relay | None = None
        self._streamed: list[EnergyEntry] = []
        """On the replicas that made what the client gets."""
        self._entries: list[EnergyEntry] = []

    async def run(self, *, leave_early: Callable[[], bool] = lambda: False) -> None:
        """Try until a replica has answered.

        Args:
            leave_early: asked after a failure; true gives up before all attempts are used, because somebody
                else can answer.

        Raises:
            ApiError: nobody could.
        """
        exclude: set[ReplicaId] = set()
        attempts_max = self._core.config.gateway.max_attempts
        grants = Grants(self._core)
        for number in range(1, attempts_max + 1):
            by_s = self._request.deadline_at_s
            grant = await grants.take(self.signals, exclude, may_split=number == 1, deadline_at_s=by_s)
            if grant.queued:
                self.reasons.append(Reason.QUEUED)
            failure = await self._attempt(grant)
            if failure is None:
                return
            exclude.add(grant.view.replica_id)
            self._core.metrics.replica_failed(grant.view.pool)
            if self._responder.started:
                await go_on(
                    self._core,
                    self.signals,
                    Broken(failure, exclude, self.reasons),
                    relay=lambda: self._relay,
                    attempt=self._attempt,
                    anybody_left=self._anybody_left,
                )
                return
            self.reasons.append(Reason.RETRIED)
            self._core.metrics.retry(Reason.REPLICA_FAILED)
            if number == attempts_max or leave_early() or self._is_refused_by_all(failure, exclude):
                raise _gave_up(number, failure)
            # A dying replica answers errors for a moment before it is gone from the table.
            await asyncio.sleep(_BACK_OFF_S * number)
            if not self._anybody_left(exclude):
                exclude.clear()

    def _is_refused_by_all(self, failure: ReplicaError, exclude: set[ReplicaId]) -> bool:
        """Whether no replica has the adapter; asking them once more would not bring it."""
        return failure.refusal is not None and not self._anybody_left(exclude)

    def _anybody_left(self, exclude: set[ReplicaId]) -> bool:
        """Whether a replica remains on which this request has not failed, or none is known at all."""
        known = {view.replica_id for view in self._core.picture.views(self.signals, tuple(Role))}
        return not known or bool(known - exclude)

    async def _attempt(self, grant: Grant) -> ReplicaError | None:
        """One try on one replica; the failure if another should be asked."""
        self._note(grant)
        started_at_s = self._core.now_s()
        report = grant.dispatch.replica
        outcome, reason = "failed", None
        begun = self._responder.started
        try:
            ticket = await self._fetch_ticket(grant.view) if grant.disaggregated else None
            started_at_s = self._core.now_s()
            if grant.disaggregated and ticket is None:
                grant.dispatch.recompute(max(0, self.signals.prompt_tokens - grant.view.cached_tokens))
            if not begun:
                self.path = Path.COMBINED if ticket is None else Path.DISAGGREGATED
            self._responder.headers |= {
                "x-tidemill-path": (self.path or Path.COMBINED).value,
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
            return error
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        else:
            outcome = "answered"
            reason = Reason.CONTINUED if begun else None
            self._core.picture.succeeded(report.replica_id)
            return None
        finally:
            grant.dispatch.release()
            self._core.queue.leave(self.signals.model, self.signals.tenant)
            self.attempts.append(
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
        self.replica = grant.decision
        self.path_decision = grant.path or self.path_decision
        if self.dispatched_at_s is None:
            self.dispatched_at_s = self._core.now_s()
        if grant.view.role is Role.PREFILL:
            self.reasons.append(Reason.LAST_RESORT)

    async def _send_to(self, grant: Grant, ticket: KVTicket | None) -> None:
        report = grant.dispatch.replica
        relay = Relay(
            self._core,
            self._request,
            self._responder,
            grant.dispatch,
            annotate=self._add_energy if self._debug else None,
            prompt_tokens=grant.decision.prompt_tokens,
            broken=self._relay if self._responder.started else None,
        )
        self._relay = relay
        uncached = max(0, grant.decision.prompt_tokens - grant.view.cached_tokens)
        energy = self._energy_entry(report, 0 if ticket else uncached, relay.tokens)
        self._streamed = [*self._streamed, energy] if relay.seam else [energy]
        self._core.energy.begin(energy)
        response: aiohttp.ClientResponse | None = None
        step = self._step(report)
        failure: str | None = "not finished"
        headers = self._engine_headers(step)
        if relay.seam is None:
            headers |= relay.so_far.headers
        if self._adapter is not None:
            headers |= self._adapter.headers(may_differ=ticket is None and relay.seam is None)
        try:
            async with self._core.silence.over(report.replica_id, relay.tokens):
                path, body = await self._asked(relay, ticket)
                response = await self._core.upstream.open(report.url + path, body, headers)
                if self._adapter is not None:
                    self._responder.headers |= self._adapter.answered(response.headers)
                self.relayed = relay.relayed
                await relay.run(response, keep_for_cache=self._keep and not self._debug)
            failure = None
        finally:
            self._core.energy.end(energy)
            step.note({"gen_ai.usage.output_tokens": relay.relayed.output_tokens})
            step.end(error=failure)
            # Closing an unfinished response closes the connection, and vLLM aborts the request.
            if response is not None:
                response.close()
        if self.relayed.prompt_tokens:
            self._core.learn_tokens(self._request, self.relayed.prompt_tokens)

    async def _asked(self, relay: Relay, ticket: KVTicket | None) -> tuple[str, bytes]:
        """Path and body of the request to the replica."""
        if relay.seam is not None:
            most = None
            if relay.so_far.bound_tokens is None:
                most = await self._core.upstream.model_length(relay.url)
            body = relay.so_far.body(relay.seam, most_tokens=most)
            return Surface.COMPLETIONS.value, self._adapter.gone_on(body) if self._adapter else body
        params = None if ticket is None else ticket.params
        asked = relay.so_far.asked(self._request.body)
        return self._request.surface.value, answer_body(replace(self._request, body=asked), params)

    async def _fetch_ticket(self, answering: ReplicaView) -> KVTicket | None:
        """Let a prefill replica compute the prompt; None if that did not work, for whatever reason."""
        candidates = self._core.prefilling(self.signals, answering)
        decision = self.prefill = self._core.choose(self.signals, candidates)
        chosen = decision.choice.replica_id
        if chosen is None:
            self.reasons.append(Reason.NO_PREFILL_REPLICA)
            return None
        dispatch = self._core.picture.dispatch(chosen, self.signals, computed_elsewhere=False)
        started_at_s = self._core.now_s()
        failure: Reason | None = None
        uncached = max(0, self.signals.prompt_tokens)
        energy = self._core.energy.begin(self._energy_entry(dispatch.replica, uncached, lambda: 0))
        step = self._step(dispatch.replica)
        try:
            timeout_s = self._core.config.routing.disaggregation.prefill_timeout_s
            silence = self._core.silence.over(chosen, lambda: 0)
            async with asyncio.timeout(timeout_s), silence:
                status, answer = await self._core.upstream.json(
                    dispatch.replica.url + self._request.surface.value,
                    prefill_body(self._request),
                    self._engine_headers(step),
                )
            params = answer.get("kv_transfer_params") if isinstance(answer, dict) else None
            if status != 200 or not isinstance(params, dict) or not params:
                # A request that is wrong gets its error from the answering replica, in the client's form.
                failure = Reason.TICKET_MISSING if status == 200 else Reason.PREFILL_FAILED
                return None
            self._core.picture.succeeded(chosen)
            return KVTicket(params=params)
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
            step.end(error=failure)
            dispatch.release()
            if failure is not None:
                self.reasons.append(failure)
            self.attempts.append(
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
        entry = EnergyEntry(
            replica_id=replica.replica_id,
            pool=replica.pool,
            model=self._request.model,
            tenant=self.signals.tenant,
            prefill_tokens=prefill_tokens,
            began_at_s=self._core.now_s(),
            tokens=tokens,
        )
        self._entries.append(entry)
        return entry

    @property
    def tokens_seen(self) -> int:
        """Output tokens that came, whether or not the answer was complete."""
        return sum(entry.tokens() for entry in self._streamed)

    @property
    def energy_j(self) -> float:
        """What it has used on all replicas, as far as is known by now."""
        found = (self._core.energy.energy_of(entry) for entry in self._entries)
        return sum(used[0] for used in found if used is not None)

    @property
    def energy_source(self) -> EnergySource | None:
        """Who says what it has used; None if nobody does."""
        found = (self._core.energy.energy_of(entry) for entry in self._entries)
        return next((used[1] for used in found if used is not None), None)

    def _add_energy(self, usage: dict[str, Any]) -> None:
        """What `x-tidemill-debug: 1` asks for."""
        found = [self._core.energy.energy_of(entry) for entry in self._streamed]
        known = [used for used in found if used is not None]
        usage["energy_j"] = sum(used[0] for used in known) if known else None
        usage["energy_source"] = known[-1][1] if known else None

    def _step(self, replica: ReplicaReport) -> Step:
        """The part of the trace that a replica does."""
        return self._trace.step(
            replica.role.value,
            {
                "tidemill.decision_id": self._decision_id,
                "tidemill.pool": replica.pool,
                "tidemill.replica": replica.replica_id,
                "tidemill.gpu_type": replica.gpu_type,
            },
        )

    def _engine_headers(self, step: Step) -> dict[str, str]:
        headers = {"content-type": "application/json", REQUEST_ID: self._decision_id, **step.headers}
        if self._request.surface is Surface.MESSAGES and "anthropic-version" in self._client_headers:
            headers["anthropic-version"] = self._client_headers["anthropic-version"]
        return headers


def _gave_up(attempts: int, failure: ReplicaError) -> ApiError:
    if failure.refusal is not None:
        return failure.refusal
    message = f"{attempts} attempts failed; the last one: {failure}"
    if failure.overloaded:
        return overloaded(message, status=503, retry_after_s=5)
    return ApiError(status=502, message=message, code="engine_failed")
