"""One request for tokens, from its signals to its last byte.

Cache, model, engines, and at the end one decision record and what is learnt from it. Whatever happens, leases
are given back and the record is written, because each step cleans up after itself.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from cluster.entities.decision import Attempt, CascadeAnswer, DecisionRecord
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path
from cluster.entities.timeline import Timeline
from cluster.policy.semantic_cache.cacheability import request_refusal
from cluster.policy.semantic_cache.identity import (
    KNOWLEDGE_VERSION_HEADER,
    SemanticIdentity,
    identify,
)
from deployments.router.cache_client import (
    CachedAnswer,
    CacheMiss,
    epoch_with,
    is_cacheable,
    may_look_up,
    model_of,
    with_new_id,
)
from deployments.router.core import RouterCore
from deployments.router.generation.adapter_request import AdapterRequest
from deployments.router.generation.answer_form import in_form
from deployments.router.generation.cascade import Cascade
from deployments.router.generation.engine_answer import EngineAnswer
from deployments.router.generation.observation import begin_trace, tell
from deployments.router.generation.open_model import OpenModel
from deployments.router.generation.relay import Relayed
from deployments.router.tenants.gate import ONCE
from deployments.router.visit import Visit
from deployments.router.wire.errors import ApiError
from deployments.router.wire.requests import ParsedRequest
from deployments.router.wire.responder import Responder


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
        visit: Visit,
    ) -> None:
        """Take a parsed request; `run` answers it."""
        self._core = core
        self._visit = visit
        self._request = request = core.apart(request, tenant)
        self._responder = responder
        self._client_headers = headers
        self._arrived_at_s = arrived_at_s
        self._arrived_wall_s = core.wall_s()
        self.signals = core.signals(request, tenant)
        self.decision_id = core.new_decision_id()
        self._trace = begin_trace(core, headers, surface=request.surface.value, decision_id=self.decision_id)
        self._open = OpenModel.of(core, request, self.signals, headers)
        self._adapter = AdapterRequest.of(core, request)
        self._reader = self._open or self._adapter
        self._weights: str | None = "" if self._adapter is None else self._adapter.weights
        """What stands for the adapters that may answer; None while nobody can say."""
        self._cache = "bypass"
        self._miss: CacheMiss | None = None
        self._answers: list[EngineAnswer] = []
        self._cascade: tuple[CascadeAnswer, ...] = ()
        self._reasons: list[Reason] = []
        self._sent: Relayed | None = None
        """What was sent that did not come from an engine as it is: a stored answer, or a cascade's."""
        self._sent_answer: EngineAnswer | None = None
        """The engines' answer behind it."""
        self._error: str | None = None
        responder.headers["x-tidemill-decision-id"] = self.decision_id
        responder.headers["x-tidemill-model"] = request.model

    async def run(self) -> None:
        """Answer the request.

        Raises:
            ApiError: nobody could.
        """
        try:
            async with asyncio.timeout(self._core.config.gateway.request_timeout_s):
                asks = ONCE if self._open is None else self._open.asks
                await self._visit.enter(
                    self.signals, self._request.answers, self._responder, self._reasons, asks
                )
                if not await self._answer_from_cache():
                    await self._answer_from_engines()
        except TimeoutError:
            if self._responder.ended:
                return  # the client has it all; only the cache was slow to take it
            self._error = "timed out"
            limit_s = self._core.config.gateway.request_timeout_s
            raise ApiError(status=504, message=f"No answer within {limit_s:.0f} s.", code="timeout") from None
        except asyncio.CancelledError:
            self._reasons.append(Reason.CLIENT_LEFT)
            self._error = "client left"
            raise
        except ApiError as error:
            self._error = error.message
            if error.reason is not None:
                self._reasons.append(error.reason)
            raise

    def finish(self) -> None:
        """Write the record; called once, after the response is out or the client has gone."""
        record = self._record()
        self._visit.leave(record, self._answers)
        self._core.decisions.add(record)
        self._core.metrics.request(record)
        if record.status == 200 and self._relayed is not None and record.path is not None:
            self._core.state_metrics.gaps(record.path.value, self._relayed.gaps)
        self._core.demand.finished(record)
        tell(self._core, record, self._answers, self._trace, prompt=self._request.prompt)
        if self._open is not None and self._path is not Path.CACHED:
            energy_j = sum(answer.energy_j for answer in self._answers)
            self._open.learn(record, self._request, self._relayed, energy_j=energy_j)
        if self._adapter is not None:
            self._adapter.learn(record, self._request, self._relayed)

    @property
    def _answer(self) -> EngineAnswer | None:
        """The engines' answer that the client got, or the last one tried."""
        return self._sent_answer or (self._answers[-1] if self._answers else None)

    @property
    def _relayed(self) -> Relayed | None:
        """What was seen of it."""
        return self._sent or (None if self._answer is None else self._answer.relayed)

    @property
    def _path(self) -> Path | None:
        """The path taken; None if nothing was answered."""
        if self._cache not in ("miss", "bypass"):
            return Path.CACHED
        return None if self._answer is None else self._answer.path

    async def _answer_from_cache(self) -> bool:
        config = self._core.config.semantic_cache
        headers = self._responder.headers
        headers["x-tidemill-cache"] = "bypass"
        if not config.enabled or not is_cacheable(self._request, self._client_headers):
            self._reasons.append(Reason.CACHE_BYPASS)
            return False
        if not may_look_up(self._client_headers) or self._weights is None:
            self._reasons.append(Reason.CACHE_BYPASS)
            return False
        text, wait_s = ("", 0.0) if self._reader is None else self._reader.wanted_text()
        step = self._trace.step("semantic_cache", {"tidemill.decision_id": self.decision_id})
        try:
            found = await self._core.cache.look_up(
                self._request,
                self.signals.tenant,
                text=text,
                text_wait_s=wait_s,
                near=self._near_identity(),
                knowledge_version=self._knowledge_version,
                weights=self._weights,
                load=self._core.queue_ratio,
                trace_headers=step.headers,
            )
        finally:
            step.end()
        if found is None:
            self._reasons.append(Reason.CACHE_UNAVAILABLE)
            return False
        if isinstance(found, CacheMiss):
            self._cache = headers["x-tidemill-cache"] = "miss"
            self._miss = found
            self._reasons.append(Reason.CACHE_MISS)
            if self._reader is not None:
                self._reader.read(found.text_signals)
            return False
        told = in_form(
            found.body,
            found.content_type,
            surface=self._request.surface,
            stream=self._request.stream,
            usage=self._request.wants_usage,
        )
        if told is None:
            self._reasons.append(Reason.CACHE_MISS)
            return False
        await self._replay(replace(found, body=told[0], content_type=told[1]))
        return True

    @property
    def _knowledge_version(self) -> str:
        return self._client_headers.get(KNOWLEDGE_VERSION_HEADER, "")

    def _near_identity(self) -> SemanticIdentity | None:
        """Where near matches of the request belong; None if none would do."""
        config = self._core.config.semantic_cache.semantic
        if not config.enabled:
            return None
        identity = identify(
            self._request.body,
            self._request.surface,
            policy_epoch=epoch_with(config.policy_epoch, self._weights or ""),
            knowledge_version=self._knowledge_version,
        )
        if request_refusal(self._request.body, identity, config) is not None:
            return None
        return identity

    async def _replay(self, found: CachedAnswer) -> None:
        self._cache = found.tier
        if found.similarity is not None and found.entry is not None:
            self._responder.headers |= {
                "x-tidemill-cache-similarity": found.similarity,
                "x-tidemill-cache-entry": found.entry,
            }
        self._reasons.append(Reason.CACHE_HIT)
        self._responder.headers |= {
            "x-tidemill-cache": found.tier,
            "x-tidemill-path": Path.CACHED.value,
            "age": str(int(float(found.age_s))),
        }
        if self._open is not None:
            model = model_of(found.body)
            if model in self._core.config.models:
                self._take_model(model)
        elif self._adapter is not None:
            self._responder.headers |= self._adapter.stored(model_of(found.body))
        body = with_new_id(found.body, lambda: self.decision_id[2:])
        self._sent = Relayed(first_token_at_s=self._core.now_s())
        await self._responder.whole(200, found.content_type, body)
        self._sent.ended_at_s = self._core.now_s()

    async def _answer_from_engines(self) -> None:
        try:
            if self._open is None:
                await self._take_adapter()
                await self._ask_engines()
            elif self._open.cascades:
                await self._ask_until_good_enough(self._open)
            else:
                await self._ask_some_model(self._open)
        finally:
            # Shielded: a client that leaves must not take the lease with it.
            if self._miss is not None:
                await asyncio.shield(asyncio.ensure_future(self._settle_cache(self._miss)))

    async def _take_adapter(self) -> None:
        if self._adapter is None:
            return
        self._request = self._request.for_adapter(await self._adapter.choose(self._reasons))
        self.signals = self._core.signals(self._request, self.signals.tenant)

    async def _ask_some_model(self, chooser: OpenModel) -> None:
        """Let models be chosen until one has answered, or none is left that could."""
        while True:
            model, reasons = await chooser.choose()
            self._reasons += reasons
            self._take_model(model)
            try:
                await self._ask_engines()
            except ApiError as error:
                if self._responder.started or error.status not in (502, 503) or not chooser.failed(model):
                    raise
                self._reasons.append(Reason.MODEL_FALLBACK)
            else:
                return

    async def _ask_until_good_enough(self, chooser: OpenModel) -> None:
        cascade = Cascade(
            self._core,
            chooser,
            self._request,
            ask=self._ask_held,
            arrived_at_s=self._arrived_at_s,
            models_max=self._visit.models_max,
        )
        try:
            await cascade.run()
        finally:
            self._reasons += cascade.reasons
            self._cascade = cascade.record()
        if cascade.model is not None:
            self._take_model(cascade.model)
            self._sent_answer = cascade.answer
        self._sent = await cascade.send(self._responder)

    async def _ask_held(self, model: str, request: ParsedRequest, held: Responder) -> EngineAnswer:
        signals = self._core.signals(request, self.signals.tenant)
        self._core.demand.arrived(model, signals.prompt_tokens)
        answer = EngineAnswer(
            self._core,
            request,
            signals,
            held,
            decision_id=self.decision_id,
            client_headers=self._client_headers,
            keep=False,
            trace=self._trace,
        )
        self._answers.append(answer)
        chooser = self._open
        assert chooser is not None  # noqa: S101 - only a cascade asks so
        await answer.run(leave_early=lambda: chooser.should_leave(signals))
        return answer

    def _take_model(self, model: str) -> None:
        tenant = self.signals.tenant
        self._request = self._request.for_model(model)
        self.signals = self._core.signals(self._request, tenant)
        self._responder.headers["x-tidemill-model"] = model

    async def _ask_engines(self) -> None:
        self._core.demand.arrived(self.signals.model, self.signals.prompt_tokens)
        answer = EngineAnswer(
            self._core,
            self._request,
            self.signals,
            self._responder,
            decision_id=self.decision_id,
            client_headers=self._client_headers,
            keep=self._miss is not None or (self._reader is not None and self._reader.judges_format),
            trace=self._trace,
            adapter=self._adapter,
        )
        self._answers.append(answer)
        chooser = self._open
        if chooser is None:
            await answer.run()
        else:
            await answer.run(leave_early=lambda: chooser.should_leave(self.signals))

    async def _settle_cache(self, miss: CacheMiss) -> None:
        relayed = self._relayed
        stale = self._adapter is not None and not self._adapter.is_still(self._weights)
        if stale or relayed is None or relayed.cacheable_body is None:
            await self._core.cache.release(miss, self._trace.headers)
            return
        await self._core.cache.store(
            miss,
            tenant=self.signals.tenant,
            content_type=relayed.content_type,
            body=relayed.cacheable_body,
            energy_j=self._answers[-1].energy_j,
            cost_usd=relayed.cost_usd(self._core.config.models[self.signals.model]),
            trace_headers=self._trace.headers,
        )

    def _record(self) -> DecisionRecord:
        last = self._answer
        relayed = self._relayed or Relayed()
        attempts: list[Attempt] = []
        reasons = [*self._reasons, *self._responder.reasons]
        for answer in self._answers:
            attempts += answer.attempts
            reasons += answer.reasons
        dispatched = [a.dispatched_at_s for a in self._answers if a.dispatched_at_s is not None]
        return DecisionRecord(
            decision_id=self.decision_id,
            router=self._core.router_id,
            at_wall_s=self._arrived_wall_s,
            # The log leaves them out, and nobody else is to keep so much of every request.
            signals=replace(self.signals, block_hashes=()),
            cache=self._cache,
            model_choice=None if self._open is None else self._open.decision,
            adapter_choice=None if self._adapter is None else self._adapter.decision,
            adapter_answer=None if self._adapter is None else self._adapter.answer,
            cascade=self._cascade,
            path=self._path,
            replica=None if last is None else last.replica,
            path_decision=None if last is None else last.path_decision,
            prefill=None if last is None else last.prefill,
            attempts=tuple(attempts),
            reasons=tuple(reasons),
            status=self._responder.status,
            error=self._error,
            timeline=Timeline(
                arrived_at_s=self._arrived_at_s,
                dispatched_at_s=dispatched[0] if dispatched else None,
                first_token_at_s=relayed.first_token_at_s,
                ended_at_s=relayed.ended_at_s,
                output_tokens=relayed.output_tokens,
            ),
            prompt_tokens=relayed.prompt_tokens,
            cached_tokens=relayed.cached_tokens,
            output_tokens=relayed.output_tokens,
            config_hash=self._core.config_hash,
        )
