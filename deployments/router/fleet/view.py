"""The fleet as one router sees it: what the directory says, and what the router itself has in flight.

Counters go up at dispatch and down exactly once, on every path, because a `Dispatch` releases itself.
Token counts, not request counts, are the load: prompts differ a hundredfold.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.adapters import AdapterTier
from cluster.entities.performance import ReplicaPerformance
from cluster.entities.pool import (
    MarginalEnergy,
    PoolName,
    ReplicaId,
    ReplicaPhase,
    ReplicaReport,
    ReplicaView,
    Role,
)
from cluster.entities.workload import RequestSignals
from cluster.performance.latency import prefill_tokens_per_s, step_s
from cluster.policy.routing.replicas.energy import marginal_energy
from cluster.policy.routing.replicas.health import ReplicaHealth, after_failure, after_success
from cluster.policy.routing.replicas.memory import ReplicaMemory
from cluster.policy.routing.replicas.predicted import predicted_ttft_s
from deployments.directory.exchange import SHARE_EXPIRY_S
from deployments.messages import FleetState, PublishedPlan, ReplicaLoad, RouterShare, ServiceReport


@dataclass(slots=True)
class _Load:
    pending_prefill_tokens: int = 0
    requests: int = 0
    waiting: int = 0
    """Those without a first token."""
    decode_tokens: int = 0
    health: ReplicaHealth = field(default_factory=ReplicaHealth)

    @property
    def own(self) -> ReplicaLoad:
        """This router's requests there."""
        return ReplicaLoad(
            requests=self.requests,
            waiting=self.waiting,
            pending_prefill_tokens=self.pending_prefill_tokens,
            decode_tokens=self.decode_tokens,
        )


@dataclass(slots=True)
class Dispatch:
    """One request's weight on one replica, from dispatch to release."""

    replica: ReplicaReport
    _load: _Load
    _uncached_tokens: int
    _prompt_tokens: int
    _on_first_token: Callable[[], None]
    _on_release: Callable[[], None]
    _phase: str = "prefill"

    def first_token(self) -> None:
        """The prompt has been computed; from now on the request decodes."""
        if self._phase == "prefill":
            self._phase = "decode"
            self._load.waiting -= 1
            self._load.pending_prefill_tokens -= self._uncached_tokens
            self._load.decode_tokens += self._prompt_tokens
            self._on_first_token()

    def recompute(self, uncached_tokens: int) -> None:
        """The prompt comes with no ticket after all: it is computed here."""
        if self._phase == "prefill":
            self._uncached_tokens += uncached_tokens
            self._load.pending_prefill_tokens += uncached_tokens

    def release(self) -> None:
        """The request is over there. Calling it again does nothing."""
        if self._phase == "done":
            return
        if self._phase == "prefill":
            self._load.waiting -= 1
            self._load.pending_prefill_tokens -= self._uncached_tokens
        else:
            self._load.decode_tokens -= self._prompt_tokens
        self._load.requests -= 1
        self._phase = "done"
        self._on_release()


class FleetPicture:
    """Replicas, their loads, their health and what was sent to them."""

    def __init__(
        self,
        config: ReplicaRoutingConfig,
        *,
        shared: bool,
        now_s: Callable[[], float],
        adapter_pools: Collection[PoolName] = (),
    ) -> None:
        """Start empty.

        Args:
            config: routing of replicas.
            shared: whether other routers send to the same replicas.
            now_s: the router's clock.
            adapter_pools: those whose replicas can answer with adapters.
        """
        self._adapter_pools = adapter_pools
        self._config = config
        self._now_s = now_s
        self._foreign: dict[ReplicaId, ReplicaLoad] = {}
        """What all other routers have in flight."""
        self._heard_at_s = 0.0
        self._reports: dict[ReplicaId, ReplicaReport] = {}
        self._tiers: dict[ReplicaId, dict[str, AdapterTier]] = {}
        """Where replicas have adapters, by name."""
        self._loads: dict[ReplicaId, _Load] = {}
        self.services: tuple[ServiceReport, ...] = ()
        self._listeners: list[Callable[[], None]] = []
        self.memory = ReplicaMemory(config, shared=shared)
        self.version = 0
        self._places: Counter[str] = Counter()
        self._places_version = -1
        self.plan: PublishedPlan | None = None
        """The provisioner's last decision."""
        self._performance: dict[PoolName, ReplicaPerformance] = {}
        self.prompt_limits: dict[PoolName, tuple[int, int | None]] = {}
        """Shortest and longest prompts by pool; empty where every pool takes any."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call the listener whenever a waiting request may find a replica."""
        self._listeners.append(listener)

    def apply(self, fleet: FleetState) -> None:
        """Take a new picture from the directory."""
        for report in fleet.replicas:
            known = self._reports.get(report.replica_id)
            if known is not None and _clears(known) != _clears(report):
                self.memory.prefixes.forget(report.replica_id)
        self._reports = {report.replica_id: report for report in fleet.replicas}
        self._tiers = {
            report.replica_id: {found.name: found.tier for found in report.adapters}
            for report in fleet.replicas
        }
        self.services = fleet.services
        self.version = fleet.version
        self.plan = fleet.plan
        targets = fleet.plan.plan.pools if fleet.plan else ()
        if fleet.plan is not None:
            # Kept while the provisioner is away: how fast hardware is does not age.
            self._performance = {pool.pool: pool.performance for pool in fleet.plan.pools}
        limits = {target.pool: (target.prompt_tokens_min, target.prompt_tokens_max) for target in targets}
        self.prompt_limits = limits if any(limit != (0, None) for limit in limits.values()) else {}
        for gone in [replica for replica in self._loads if replica not in self._reports]:
            if not self._loads[gone].requests:
                del self._loads[gone]
            self.memory.forget(gone)
        for replica in self._reports:
            self._loads.setdefault(replica, _Load())
        self._tell()

    def service_url(self, service: str) -> str | None:
        """Where a service listens; None if it is not there."""
        return next((found.url for found in self.services if found.service == service), None)

    def service_urls(self, service: str) -> list[str]:
        """Where all replicas of a service listen."""
        return [found.url for found in self.services if found.service == service]

    def reports(self, model: str | None = None) -> list[ReplicaReport]:
        """Known replicas, of one model or all."""
        return [r for r in self._reports.values() if model is None or r.model == model]

    def views(
        self, signals: RequestSignals, roles: Collection[Role], exclude: Iterable[ReplicaId] = ()
    ) -> tuple[ReplicaView, ...]:
        """The candidates for a request in the given roles, as the policies see them."""
        excluded = set(exclude)
        found = [
            report
            for report in self._reports.values()
            if report.model == signals.model and report.role in roles and report.replica_id not in excluded
        ]
        if signals.adapter:
            found = [report for report in found if report.pool in self._adapter_pools]
            # One that has just started may not have the catalogue yet.
            found = [report for report in found if signals.adapter in self._tiers[report.replica_id]] or found
        return tuple(self._view(report, signals) for report in found)

    def _view(self, report: ReplicaReport, signals: RequestSignals) -> ReplicaView:
        load = self._load(report.replica_id)
        cached = 0
        if signals.block_hashes:
            blocks = self.memory.prefixes.cached_blocks(
                report.replica_id, signals.block_hashes, now_s=self._now_s()
            )
            cached = min(blocks * signals.block_tokens, signals.prompt_tokens)
        tier = self._tiers[report.replica_id].get(signals.adapter) if signals.adapter else None
        return ReplicaView(
            replica_id=report.replica_id,
            pool=report.pool,
            role=report.role,
            phase=report.phase,
            pending_prefill_tokens=load.pending_prefill_tokens,
            requests_in_flight=load.requests,
            requests_waiting=load.waiting,
            decode_tokens=load.decode_tokens,
            cached_tokens=cached,
            prefill_tokens_per_s=report.prefill_tokens_per_s or self._prefill_rate(report.pool),
            step_s=self._step_s(report.pool, load.requests, load.decode_tokens),
            kv_cache_usage=report.kv_cache_usage,
            max_concurrent_requests=report.max_concurrent_requests,
            put_aside_until_s=self._loads[report.replica_id].health.put_aside_until_s,
            energy=self._energy(report.pool, load),
            adapters=(signals.adapter,) if tier is AdapterTier.DEVICE else (),
            adapters_in_host=(signals.adapter,) if tier is AdapterTier.HOST else (),
        )

    def _load(self, replica_id: ReplicaId) -> ReplicaLoad:
        """What this router and the others have in flight there."""
        own = self._loads[replica_id].own
        foreign = self._foreign.get(replica_id)
        if foreign is None or self._now_s() - self._heard_at_s > SHARE_EXPIRY_S:
            return own
        return own + foreign

    def share(self) -> RouterShare:
        """What the other routers are to know."""
        loads = {replica: load.own for replica, load in self._loads.items() if load.requests}
        return RouterShare(loads=loads, computed=self.memory.take_news())

    def hear(self, others: RouterShare) -> None:
        """Take in what the other routers have in flight, and what they found computed."""
        self._foreign = others.loads
        self._heard_at_s = self._now_s()
        self.memory.hear(news for news in others.computed if news[0] in self._reports)
        self._tell()

    def _prefill_rate(self, pool: PoolName) -> float:
        """Rate of a replica that has measured none: its pool's, where the last snapshot has it."""
        known = self._performance.get(pool)
        return self._config.assumed_prefill_tokens_per_s if known is None else prefill_tokens_per_s(known)

    def _step_s(self, pool: PoolName, sequences: int, context_tokens: int) -> float:
        known = self._performance.get(pool)
        if known is None:
            return 0.0
        return step_s(known, sequences=sequences, context_tokens=context_tokens, prefill_tokens=0.0)

    def _energy(self, pool: PoolName, load: ReplicaLoad) -> MarginalEnergy | None:
        known = self._performance.get(pool)
        if known is None or self._config.energy_slack_s <= 0:
            return None
        return marginal_energy(known, sequences=load.requests, context_tokens=load.decode_tokens)

    def dispatch(
        self, replica_id: ReplicaId, signals: RequestSignals, *, computed_elsewhere: bool
    ) -> Dispatch:
        """Count a request in; the caller releases the result in a `finally`.

        Args:
            replica_id: a replica of the current picture.
            signals: the request.
            computed_elsewhere: whether its prompt comes as a KV ticket, so that nothing is prefilled here.
        """
        report = self._reports[replica_id]
        load = self._loads[replica_id]
        view = self._view(report, signals)
        if report.prefix_cache is not None and report.prefix_cache.tokens_when_full and signals.block_tokens:
            blocks = report.prefix_cache.tokens_when_full // signals.block_tokens
            self.memory.prefixes.bound(replica_id, blocks)
        uncached = 0 if computed_elsewhere else max(0, signals.prompt_tokens - view.cached_tokens)
        load.requests += 1
        load.waiting += 1
        load.pending_prefill_tokens += uncached
        self.memory.sent(
            replica_id,
            signals.block_hashes,
            uncached_tokens=uncached,
            ttft_s=predicted_ttft_s(
                signals.prompt_tokens, view, assumed_tokens_per_s=self._config.assumed_prefill_tokens_per_s
            ),
            now_s=self._now_s(),
        )
        return Dispatch(
            report,
            load,
            uncached,
            signals.prompt_tokens,
            lambda: self._answered(replica_id, signals.block_hashes),
            self._tell,
        )

    def _answered(self, replica_id: ReplicaId, hashes: tuple[int, ...]) -> None:
        # A replica that has left in the meantime must not be remembered again.
        if replica_id in self._reports:
            self.memory.answered(replica_id, hashes)

    def failed(self, replica_id: ReplicaId, *, now_s: float, draw: float) -> None:
        """Put a replica aside: it did not answer."""
        load = self._loads.get(replica_id)
        if load is not None:
            load.health = after_failure(load.health, self._config, now_s=now_s, draw=draw)
            # Its prefix cache may have gone with it; believing in it would draw traffic to it.
            self.memory.prefixes.forget(replica_id)

    def succeeded(self, replica_id: ReplicaId) -> None:
        """A replica answered."""
        load = self._loads.get(replica_id)
        if load is not None and load.health.failures:
            load.health = after_success(load.health)

    def has_room(self, replica_id: ReplicaId, *, now_s: float) -> bool:
        """Whether a replica could take another request now."""
        load, report = self._loads.get(replica_id), self._reports.get(replica_id)
        if load is None or report is None or load.health.put_aside_until_s > now_s:
            return False
        return self._load(replica_id).requests < report.max_concurrent_requests

    def in_flight(self, replica_id: ReplicaId) -> int:
        """This router's requests on a replica."""
        load = self._loads.get(replica_id)
        return 0 if load is None else load.requests

    def places_of(self, model: str) -> int:
        """How many requests the replicas that answer for a model take at a time."""
        if self._places_version != self.version:
            self._places_version, self._places = self.version, Counter()
            for report in self._reports.values():
                if report.phase is ReplicaPhase.READY and report.role.answers:
                    self._places[report.model] += report.max_concurrent_requests
        return self._places[model]

    def ready(self, model: str) -> bool:
        """Whether a request for a model would be answered."""
        return any(
            report.phase is ReplicaPhase.READY and report.role.answers for report in self.reports(model)
        )

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _clears(report: ReplicaReport) -> int:
    return 0 if report.prefix_cache is None else report.prefix_cache.clears
