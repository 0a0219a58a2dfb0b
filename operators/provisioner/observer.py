"""Turns what the cluster says into the snapshot that a decision is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.config import TidemillConfig
from cluster.entities.fleet import (
    ClassDemand,
    DemandWindow,
    FleetSnapshot,
    ModelBacklog,
    ReplicaObservation,
    ReplicaStage,
)
from cluster.entities.performance import ReplicaPerformance
from cluster.entities.pool import ReplicaId, ReplicaPhase, ReplicaReport
from cluster.performance.estimator import EstimatorState, PerformanceSample, refit
from cluster.performance.estimator import observe as estimated
from cluster.performance.profiles import pool_performance
from cluster.policy.observation import PoolFacts, added, combined, observe
from deployments.messages import DemandReport, FleetOverview, ReplicaEnergy
from operators.provisioner.energy_book import EnergyBook
from operators.provisioner.serve_api import ServePool

_SAMPLE_S = 1.0
"""Windows shorter than this say little about a pool's speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at the cluster."""

    snapshot: FleetSnapshot
    energy: tuple[ReplicaEnergy, ...]
    meter_errors: tuple[tuple[str, str, str], ...]


class Observer:
    """Remembers what it takes to tell what is new: sums of routers, stages of replicas, engines' counters."""

    def __init__(self, config: TidemillConfig) -> None:
        """Look the pools up in the performance catalogue.

        Raises:
            ValueError: a model does not fit on its pool's GPUs.
        """
        self._config = config
        self._profiles = {name: _profile(name, config) for name in config.pools}
        self._estimates = dict.fromkeys(config.pools, EstimatorState())
        self._book = EnergyBook()
        self._sums: dict[str, DemandReport] = {}
        self._stages: dict[ReplicaId, tuple[ReplicaStage, float]] = {}
        self._unplaced: dict[str, float] = {}
        self._before: dict[ReplicaId, ReplicaReport] = {}
        self._observed_at_s: float | None = None

    def look(self, overview: FleetOverview, serve: Mapping[str, ServePool], *, now_s: float) -> Observation:
        """Put a snapshot together.

        Args:
            overview: what the directory knows.
            serve: what Serve knows, by pool.
            now_s: Unix time.
        """
        performance = {name: refit(self._profiles[name], self._estimates[name]) for name in self._profiles}
        energy = self._book.update(overview.replicas, overview.energy, performance)
        self._learn(overview.replicas)
        demand, backlog = self._demand(overview.demand, now_s)
        self._note_stages(overview.replicas, now_s)
        facts = {
            name: self._facts(name, serve[name], overview.replicas, performance[name], now_s)
            for name in self._config.pools
            if name in serve
        }
        snapshot = observe(
            config=self._config,
            observed_at_s=now_s,
            reports=overview.replicas,
            pools=facts,
            demand=demand,
            backlog=backlog,
        )
        self._observed_at_s = now_s
        errors = tuple(
            (meter, f"{node.node_id[:8]}/{device}", why)
            for node in overview.energy
            for meter, device, why in node.errors
        )
        return Observation(snapshot=snapshot, energy=energy, meter_errors=errors)

    def _demand(
        self, reports: tuple[DemandReport, ...], now_s: float
    ) -> tuple[DemandWindow, tuple[ModelBacklog, ...]]:
        started_at_s = now_s if self._observed_at_s is None else self._observed_at_s
        windows = []
        for report in reports:
            before = self._sums.get(report.router_id)
            if before is None and self._observed_at_s is None:
                continue  # what it counted before this provisioner looked for the first time is not new
            windows.append(
                DemandWindow(started_at_s=started_at_s, ended_at_s=now_s, classes=_since(report, before))
            )
        self._sums = {report.router_id: report for report in reports}
        waiting: dict[str, int] = {}
        for report in reports:
            for backlog in report.backlog:
                waiting[backlog.model] = waiting.get(backlog.model, 0) + backlog.requests
        return (
            added(windows, started_at_s=started_at_s, ended_at_s=now_s),
            tuple(ModelBacklog(model=model, requests=count) for model, count in sorted(waiting.items())),
        )

    def _note_stages(self, reports: tuple[ReplicaReport, ...], now_s: float) -> None:
        stages = {}
        for report in reports:
            stage = ReplicaStage.READY if report.phase is ReplicaPhase.READY else ReplicaStage.DRAINING
            known = self._stages.get(report.replica_id)
            stages[report.replica_id] = known if known is not None and known[0] is stage else (stage, now_s)
        self._stages = stages

    def _facts(
        self,
        name: str,
        serve: ServePool,
        reports: tuple[ReplicaReport, ...],
        performance: ReplicaPerformance,
        now_s: float,
    ) -> PoolFacts:
        reporting = {str(report.replica_id) for report in reports if report.pool == name}
        starting = tuple(
            ReplicaObservation(replica_id=ReplicaId(f"{name}-{replica}"), stage=ReplicaStage.STARTING)
            for replica in serve.existing
            if f"{name}-{replica}" not in reporting
        )
        if serve.unscheduled and starting:
            self._unplaced.setdefault(name, now_s)
        else:
            self._unplaced.pop(name, None)
        power = self._book.power(name)
        return PoolFacts(
            replicas_wanted=serve.replicas_wanted,
            performance=performance,
            starting=starting,
            unplaced_since_s=self._unplaced.get(name),
            power_w=None if power is None else power[0],
            power_source=None if power is None else power[1],
            stage_since_s={replica: at_s for replica, (_, at_s) in self._stages.items()},
        )

    def _learn(self, reports: tuple[ReplicaReport, ...]) -> None:
        """Let every replica's last window say how fast its pool is."""
        for report in reports:
            before = self._before.get(report.replica_id)
            if before is not None and report.observed_at_s - before.observed_at_s < _SAMPLE_S:
                continue
            self._before[report.replica_id] = report
            profile = self._profiles.get(report.pool)
            if before is None or profile is None:
                continue
            sample = _sample(before, report, profile)
            self._estimates[report.pool] = estimated(profile, self._estimates[report.pool], sample)
        alive = {report.replica_id for report in reports}
        for gone in [replica for replica in self._before if replica not in alive]:
            del self._before[gone]


def _profile(name: str, config: TidemillConfig) -> ReplicaPerformance:
    pool = config.pools[name]
    try:
        return pool_performance(pool, config.models[pool.model])
    except ValueError as error:
        raise ValueError(f"pools.{name}: {error}") from error


def _since(report: DemandReport, before: DemandReport | None) -> tuple[ClassDemand, ...]:
    """What a router has counted since its report before."""
    known = {} if before is None else {(c.model, c.workload_class): c for c in before.classes}
    new = []
    for sums in report.classes:
        earlier = known.get((sums.model, sums.workload_class))
        new.append(sums if earlier is None else combined(sums, earlier, sign=-1))
    return tuple(new)


def _sample(before: ReplicaReport, after: ReplicaReport, profile: ReplicaPerformance) -> PerformanceSample:
    span_s = after.observed_at_s - before.observed_at_s
    gaps = after.counters.token_gaps - before.counters.token_gaps
    gaps_s = max(0.0, after.counters.token_gaps_s - before.counters.token_gaps_s)
    return PerformanceSample(
        sequences=gaps_s / span_s,
        context_tokens=(before.kv_cache_usage + after.kv_cache_usage) / 2.0 * profile.kv_tokens_max,
        itl_s=gaps_s / gaps if gaps > 0 else None,
        prefill_tokens=float(max(0, after.counters.prefill_tokens - before.counters.prefill_tokens)),
        window_s=span_s,
    )


def without_engine_details(snapshot: FleetSnapshot) -> FleetSnapshot:
    """The snapshot with sources left out: they are long, and no decision looks at them."""
    pools = tuple(replace(pool, performance=replace(pool.performance, sources=())) for pool in snapshot.pools)
    return replace(snapshot, pools=pools)
