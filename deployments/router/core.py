"""What all requests of one router replica share."""

import hashlib
import random
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.config import TidemillConfig
from cluster.entities.decision import ReplicaDecision
from cluster.entities.energy import EnergySource
from cluster.entities.pool import ReplicaId, ReplicaView, Role
from cluster.entities.reasons import Reason
from cluster.entities.workload import RequestSignals
from cluster.policy.routing.replicas.length_limits import pools_for_length
from cluster.policy.routing.replicas.policies import choose_replica
from cluster.policy.routing.replicas.prefix_index import block_hashes
from cluster.policy.token_estimate import TokenRatio, estimate_tokens, learn
from deployments.messages import SEMANTIC_CACHE, FleetState
from deployments.model_learning.interface import Learner
from deployments.router.adapters.coordinator import Coordinator
from deployments.router.adapters.view import Adapters, adapter_pools
from deployments.router.admission.queue import AdmissionQueue
from deployments.router.cache_client import CacheClient
from deployments.router.fleet.demand import RouterDemand
from deployments.router.fleet.energy import EnergyLedger, Payer, TenantNames
from deployments.router.fleet.silence import SilenceWatch
from deployments.router.fleet.view import FleetPicture
from deployments.router.guardrails.chain import Guardrails
from deployments.router.metrics.counters import RouterMetrics
from deployments.router.metrics.exposition import StateMetrics
from deployments.router.models.choice import ModelRouter
from deployments.router.models.learning import LearningLink
from deployments.router.models.retry_memory import RetryMemory
from deployments.router.records.decision_log import DecisionLog
from deployments.router.records.request_log import RequestLog
from deployments.router.records.status import StatusBoard
from deployments.router.tenants.counters import TenantMetrics
from deployments.router.tenants.tenants import Tenants
from deployments.router.wire.requests import ParsedRequest, session_id
from deployments.router.wire.upstream import Upstream
from deployments.tracing import tracing_of

ANSWERING = frozenset({Role.DECODE, Role.COMBINED})
PREFILLING = frozenset({Role.PREFILL})


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """What a router needs beside the configuration."""

    state_dir: str
    """Folder for decision logs; empty writes none."""
    admin_key: str
    """Key for `/admin/*`; empty closes them."""


class RouterCore:
    """State and services of one router replica."""

    def __init__(
        self,
        config: TidemillConfig,
        settings: RouterSettings,
        *,
        router_id: str,
        learner: Learner | None = None,
        coordinator: Coordinator | None = None,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            config: of the cluster.
            settings: what a router needs beside it.
            router_id: unique.
            learner: what model routing learns from; None where models are not routed.
            coordinator: takes changes of the catalogue of adapters.
        """
        self.config = config
        self.settings = settings
        self.router_id = router_id
        self.coordinator = coordinator
        self.config_hash = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
        self._keeps_prefixes_apart = config.keeps_prefixes_apart
        self.picture = FleetPicture(
            config.routing.replicas,
            shared=config.gateway.router_replicas > 1,
            now_s=self.now_s,
            adapter_pools=adapter_pools(config),
        )
        self.metrics = RouterMetrics()
        self.tenants = self._tenants_of(config) if config.tenants.enabled else None
        self.queue = self._queue_of(config)
        self.guardrails = Guardrails.of(config.guardrails, self.metrics.guarded)
        self.upstream = Upstream(config.gateway)
        self.demand = RouterDemand(config, router_id)
        self.status = StatusBoard(config.status_page, started_at_s=self.wall_s())
        self.state_metrics = StateMetrics(
            config, demand=self.demand, picture=self.picture, now_s=self.now_s, wall_s=self.wall_s
        )
        self.metrics.include(self.state_metrics)
        self._tenants = TenantNames(config.telemetry.tenants_max)
        self.energy = EnergyLedger(config.telemetry, self.now_s, self._charged, self._unattributed)
        state = Path(settings.state_dir) if settings.state_dir else None
        self.decisions = self._decision_log_in(state)
        self.request_log = self._request_log_in(state)
        self.tracing = tracing_of(config.tracing, service="tidemill-router", instance=router_id)
        self.cache = CacheClient(
            config.semantic_cache,
            lambda: self.upstream.session,
            lambda: self.picture.service_urls(SEMANTIC_CACHE),
            router_id=router_id,
        )
        # Only ties and jitter hang on it; what it gave is in the decision log.
        self._chance = random.Random(secrets.randbits(64))  # noqa: S311
        self._ratios = dict.fromkeys(config.models, TokenRatio())
        self.retries = RetryMemory(config.routing.learning.automatic)
        self.adapters = self._adapters_of(config) if adapter_pools(config) else None
        self.models: ModelRouter | None = None
        if config.routes_models:
            self.models = ModelRouter(
                config, self.picture, now_s=self.now_s, wall_s=self.wall_s, draw=self.draw
            )
        self.learning = self._link_to(learner)
        self.picture.on_change(self.queue.wake)
        self.silence = SilenceWatch(self.picture, silence_s=config.gateway.continuation.silence_s)

    def _link_to(self, learner: Learner | None) -> LearningLink | None:
        if self.models is None or learner is None:
            return None
        return LearningLink(
            self.config.routing.learning,
            learner,
            apply=self.models.apply,
            on_drop=self.metrics.outcome_dropped,
        )

    def _decision_log_in(self, state: Path | None) -> DecisionLog:
        return DecisionLog(
            self.config.decision_log,
            None if state is None else state / "decisions",
            name=self.router_id,
            on_drop=self.metrics.decision_dropped,
        )

    def _request_log_in(self, state: Path | None) -> RequestLog:
        return RequestLog(
            self.config.logging,
            None if state is None else state / "requests",
            name=self.router_id,
            on_drop=self.metrics.log_line_dropped,
        )

    def _adapters_of(self, config: TidemillConfig) -> Adapters:
        return Adapters(
            config,
            self.picture,
            self.metrics,
            session=lambda: self.upstream.session,
            find_decision=self.decisions.find,
            now_s=self.now_s,
            wall_s=self.wall_s,
            draw=lambda: self.draw(),  # noqa: PLW0108 - tests put another one in its place
        )

    def _tenants_of(self, config: TidemillConfig) -> Tenants:
        return Tenants(
            config,
            state_dir=self.settings.state_dir,
            admin_key=self.settings.admin_key,
            router=self.router_id,
            now_s=self.now_s,
            wall_s=self.wall_s,
            metrics=TenantMetrics(self.metrics),
        )

    def _queue_of(self, config: TidemillConfig) -> AdmissionQueue:
        if self.tenants is None:
            return AdmissionQueue(config.gateway)
        return AdmissionQueue(
            config.gateway,
            config.tenants.fairness,
            flow_of=self.tenants.flow_of,
            places_of=lambda model: self.picture.places_of(model) // config.gateway.router_replicas,
        )

    @property
    def queue_ratio(self) -> float:
        """How full the queue is, 0 to 1: the load that the semantic cache relaxes for."""
        return min(1.0, self.queue.queued / max(1, self.config.gateway.max_queued_requests))

    async def start(self) -> None:
        """Open connections and the log."""
        await self.upstream.start()
        self.decisions.start()
        if self.tenants is not None:
            await self.tenants.start()
        self.request_log.start()
        self.cache.start()
        if self.learning is not None:
            self.learning.start()
        if self.adapters is not None:
            self.adapters.start()

    async def close(self) -> None:
        """Close them."""
        if self.learning is not None:
            await self.learning.close()
        if self.adapters is not None:
            await self.adapters.close()
        if self.tenants is not None:
            await self.tenants.close()
        await self.cache.close()
        await self.upstream.close()
        await self.decisions.close()
        await self.request_log.close()
        await self.tracing.close()

    def apply(self, fleet: FleetState) -> None:
        """Take a new picture of the fleet."""
        if self.adapters is not None:
            self.adapters.apply(fleet)
        self.picture.apply(fleet)
        self.state_metrics.heard()
        self.metrics.fleet(self.picture.reports())
        if fleet.plan is not None:
            self.metrics.plan(fleet.plan)
            self.energy.settle(fleet.plan.energy)
        else:
            self.energy.forget_all_but(report.replica_id for report in fleet.replicas)

    def _charged(self, payer: Payer, source: EnergySource, energy_j: float) -> None:
        self.metrics.charged(payer, self._tenants.of(payer.tenant), source, energy_j)
        if self.tenants is not None:
            self.tenants.charge_energy(payer.tenant, source, energy_j)
        self.status.used(source, energy_j)

    def _unattributed(self, pool: str, source: EnergySource, energy_j: float) -> None:
        self.metrics.unattributed(pool, source, energy_j)
        self.status.used(source, energy_j)

    def now_s(self) -> float:
        """The router's clock, the monotonic one: uvloop rounds the event loop's to milliseconds."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Unix time, for the log's readers."""
        return time.time()

    def draw(self) -> float:
        """Chance in [0, 1)."""
        return self._chance.random()

    def new_decision_id(self) -> str:
        """Unique, and ordered by time."""
        return f"d-{int(time.time() * 1000):012x}-{secrets.token_hex(5)}"

    def apart(self, request: ParsedRequest, tenant: str) -> ParsedRequest:
        """The request as its tenant may send it to engines that others use as well."""
        return request.apart_from_other_tenants(tenant) if self._keeps_prefixes_apart else request

    def signals(self, request: ParsedRequest, tenant: str) -> RequestSignals:
        """What routing may look at."""
        routing = self.config.routing.replicas
        ratio = self._ratios.get(request.model, self._ratios[self.config.default_model])
        tokens = request.prompt_tokens
        if tokens is None:
            tokens = estimate_tokens(ratio, len(request.prompt))
        per_byte = tokens / len(request.prompt) if request.prompt else 0.0
        salt = f"{request.model}\0{request.cache_salt}"
        if request.adapter and self.adapters is not None:
            # Engines keep prefixes apart by an adapter's name and weights.
            card = self.adapters.names.card(request.adapter)
            salt += f"\0{request.adapter}@{card.sha256 if card else ''}"
        return RequestSignals(
            surface=request.surface,
            model=request.model,
            tenant=tenant,
            prompt_tokens=tokens,
            block_hashes=block_hashes(
                request.prompt,
                salt=salt.encode(),
                block_bytes=routing.prefix_block_bytes,
                blocks_max=routing.prefix_blocks_per_prompt_max,
            ),
            block_tokens=int(per_byte * routing.prefix_block_bytes),
            max_output_tokens=request.max_output_tokens,
            stream=request.stream,
            session=session_id(tenant, request.session),
            splittable=request.splittable,
            adapter=request.adapter,
        )

    def learn_tokens(self, request: ParsedRequest, prompt_tokens: int) -> None:
        """Take in an engine's true prompt length."""
        if request.prompt_tokens is None and request.prompt:
            self._ratios[request.model] = learn(
                self._ratios[request.model], prompt_bytes=len(request.prompt), prompt_tokens=prompt_tokens
            )

    def prefilling(self, signals: RequestSignals, answering: ReplicaView) -> tuple[ReplicaView, ...]:
        """Prefill replicas whose KV cache the answering one could use: of an adapter, the same weights."""
        views = self.picture.views(signals, PREFILLING)
        if not signals.adapter or self.adapters is None:
            return views
        reports = {report.replica_id: report for report in self.adapters.nodes(signals.model)}
        own = reports.get(answering.replica_id)
        same = self.adapters.names.same_weights
        return tuple(
            view for view in views if own is not None and same(signals.adapter, own, reports[view.replica_id])
        )

    def choose(self, signals: RequestSignals, candidates: tuple[ReplicaView, ...]) -> ReplicaDecision:
        """Let the policy choose among candidates."""
        now_s, draw = self.now_s(), self.draw()
        remembered = self.picture.memory.recall((view.replica_id for view in candidates), now_s)
        choice = choose_replica(
            signals,
            candidates,
            self.config.routing.replicas,
            now_s=now_s,
            draw=draw,
            remembered=remembered,
        )
        return ReplicaDecision(
            prompt_tokens=signals.prompt_tokens,
            candidates=candidates,
            decided_at_s=now_s,
            draw=draw,
            remembered=remembered,
            choice=choice,
        )

    def _of_length(
        self, signals: RequestSignals, candidates: tuple[ReplicaView, ...]
    ) -> tuple[ReplicaView, ...]:
        """Candidates in the pools that the fleet's plan means for prompts of this length."""
        limits = self.picture.prompt_limits
        if not limits:
            return candidates
        known = {view.pool: limits.get(view.pool, (0, None)) for view in candidates}
        pools = pools_for_length(signals.prompt_tokens, known)
        return tuple(view for view in candidates if view.pool in pools)

    def choose_answering(self, signals: RequestSignals, exclude: set[ReplicaId]) -> ReplicaDecision:
        """Choose the replica that makes the tokens.

        When no decode or combined replica is left, a prefill replica answers alone: it is a whole engine.
        """
        candidates = self.picture.views(signals, ANSWERING, exclude)
        decision = self.choose(signals, self._of_length(signals, candidates))
        if decision.choice.replica_id is None:
            decision = self.choose(signals, candidates)
        choice = decision.choice
        if choice.replica_id is None and Reason.ALL_FULL not in choice.reasons:
            spare = self.choose(signals, self.picture.views(signals, PREFILLING, exclude))
            if spare.choice.replica_id is not None:
                return spare
        return decision
