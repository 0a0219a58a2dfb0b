"""From reports and counts to a FleetSnapshot: the one way, in the live cluster and in the simulator.

Equal facts give equal snapshots, whoever collected them, because order is canonical here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from cluster.config.root import TidemillConfig
from cluster.entities.energy import EnergySource
from cluster.entities.fleet import (
    ClassDemand,
    DemandWindow,
    FleetSnapshot,
    ModelBacklog,
    PoolObservation,
    ReplicaObservation,
    ReplicaStage,
)
from cluster.entities.performance import ReplicaPerformance
from cluster.entities.pool import PoolName, ReplicaPhase, ReplicaReport
from cluster.policy.workload_class import workload_class


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """What is known of a pool beside what its replicas report."""

    replicas_wanted: int
    performance: ReplicaPerformance
    starting: tuple[ReplicaObservation, ...] = ()
    """Replicas that exist and do not report yet."""
    replicas_placeable: int | None = None
    unplaced_since_s: float | None = None
    power_w: float | None = None
    power_source: EnergySource | None = None
    output_tokens_per_s: float | None = None
    stage_since_s: Mapping[str, float] = field(default_factory=dict)
    """For each reporting replica, when it was first seen in its stage."""


def observe(
    *,
    config: TidemillConfig,
    observed_at_s: float,
    reports: Iterable[ReplicaReport],
    pools: Mapping[str, PoolFacts],
    demand: DemandWindow,
    backlog: Iterable[ModelBacklog] = (),
) -> FleetSnapshot:
    """Put a snapshot together.

    Args:
        config: names the pools; those without facts are left out.
        observed_at_s: Unix time of the observation.
        reports: what replicas said last; those of unknown pools are ignored.
        pools: facts by pool.
        demand: since the previous snapshot.
        backlog: what waits in the routers.
    """
    by_pool: dict[str, list[ReplicaReport]] = {}
    for report in reports:
        by_pool.setdefault(report.pool, []).append(report)
    observed = (
        _pool(config, name, pools[name], by_pool.get(name, ()))
        for name in sorted(config.pools)
        if name in pools
    )
    return FleetSnapshot(
        observed_at_s=observed_at_s,
        pools=tuple(observed),
        demand=demand,
        backlog=tuple(sorted(backlog, key=lambda waiting: waiting.model)),
    )


def _pool(
    config: TidemillConfig, name: str, facts: PoolFacts, reports: Sequence[ReplicaReport]
) -> PoolObservation:
    pool = config.pools[name]
    reporting = {report.replica_id for report in reports}
    replicas = [_replica(report, facts) for report in reports]
    replicas += [replica for replica in facts.starting if replica.replica_id not in reporting]
    ready = [report.observed_at_s for report in reports if report.phase is ReplicaPhase.READY]
    return PoolObservation(
        pool=PoolName(name),
        model=pool.model,
        role=pool.role,
        gpu_type=pool.gpu_type,
        replicas=tuple(sorted(replicas, key=lambda replica: replica.replica_id)),
        replicas_wanted=facts.replicas_wanted,
        replicas_placeable=facts.replicas_placeable,
        unplaced_since_s=facts.unplaced_since_s,
        performance=replace(
            facts.performance,
            # No replica gets more requests than routers send it, however many its engine would take.
            sequences_max=min(facts.performance.sequences_max, config.pools[name].max_concurrent_requests),
        ),
        power_w=facts.power_w,
        power_source=facts.power_source,
        output_tokens_per_s=facts.output_tokens_per_s,
        reported_at_s=min(ready, default=None),
    )


def _replica(report: ReplicaReport, facts: PoolFacts) -> ReplicaObservation:
    ready = report.phase is ReplicaPhase.READY
    return ReplicaObservation(
        replica_id=report.replica_id,
        stage=ReplicaStage.READY if ready else ReplicaStage.DRAINING,
        requests_running=report.requests_running,
        requests_waiting=report.requests_waiting,
        kv_cache_usage=report.kv_cache_usage,
        since_s=facts.stage_since_s.get(report.replica_id, report.started_at_s),
    )


class DemandTally:
    """Counts demand by model and workload class; bounded, because both are configured."""

    def __init__(self, config: TidemillConfig) -> None:
        """Start from nothing."""
        self._models = frozenset(config.models)
        self._bands = config.provisioning.prompt_bands
        self._sums: dict[tuple[str, str], list[float]] = {}

    def arrived(self, model: str, prompt_tokens: int) -> None:
        """A request needs an engine."""
        sums = self._of(model, prompt_tokens)
        if sums is not None:
            sums[_ARRIVALS] += 1
            sums[_PROMPT_TOKENS] += prompt_tokens
            sums[_PROMPT_TOKENS_SQUARED] += prompt_tokens * prompt_tokens

    def completed(
        self, model: str, prompt_tokens: int, cached_tokens: int, output_tokens: int, *, slo_met: bool
    ) -> None:
        """A request was answered by an engine."""
        sums = self._of(model, prompt_tokens)
        if sums is not None:
            sums[_COMPLETIONS] += 1
            sums[_COMPLETED_PROMPT_TOKENS] += prompt_tokens
            sums[_CACHED_PROMPT_TOKENS] += cached_tokens
            sums[_OUTPUT_TOKENS] += output_tokens
            sums[_ATTENDED_TOKENS] += output_tokens * (prompt_tokens + output_tokens / 2.0)
            sums[_SLO_MET] += slo_met

    def cache_hit(self, model: str, prompt_tokens: int) -> None:
        """The semantic cache answered a request."""
        sums = self._of(model, prompt_tokens)
        if sums is not None:
            sums[_CACHE_HITS] += 1

    def take(self, started_at_s: float, ended_at_s: float) -> DemandWindow:
        """What was counted since the last call, as a window; counting starts anew."""
        sums, self._sums = self._sums, {}
        classes = tuple(
            ClassDemand(
                model=model,
                workload_class=name,
                arrivals=int(sums[key][_ARRIVALS]),
                prompt_tokens=int(sums[key][_PROMPT_TOKENS]),
                prompt_tokens_squared=float(sums[key][_PROMPT_TOKENS_SQUARED]),
                completions=int(sums[key][_COMPLETIONS]),
                cached_prompt_tokens=int(sums[key][_CACHED_PROMPT_TOKENS]),
                completed_prompt_tokens=int(sums[key][_COMPLETED_PROMPT_TOKENS]),
                output_tokens=int(sums[key][_OUTPUT_TOKENS]),
                attended_tokens=float(sums[key][_ATTENDED_TOKENS]),
                cache_hits=int(sums[key][_CACHE_HITS]),
                slo_met=int(sums[key][_SLO_MET]),
            )
            for key in sorted(sums)
            for model, name in (key,)
        )
        return DemandWindow(started_at_s=started_at_s, ended_at_s=ended_at_s, classes=classes)

    def _of(self, model: str, prompt_tokens: int) -> list[float] | None:
        if model not in self._models:
            return None
        key = (model, workload_class(prompt_tokens, self._bands))
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = [0.0] * _FIELDS
        return sums


(
    _ARRIVALS,
    _PROMPT_TOKENS,
    _PROMPT_TOKENS_SQUARED,
    _COMPLETIONS,
    _CACHED_PROMPT_TOKENS,
    _COMPLETED_PROMPT_TOKENS,
    _OUTPUT_TOKENS,
    _ATTENDED_TOKENS,
    _CACHE_HITS,
    _SLO_MET,
) = range(10)
_FIELDS = 10
_SUMS = tuple(found.name for found in fields(ClassDemand) if found.name not in ("model", "workload_class"))


def added(windows: Iterable[DemandWindow], *, started_at_s: float, ended_at_s: float) -> DemandWindow:
    """Windows of several routers as one."""
    totals: dict[tuple[str, str], ClassDemand] = {}
    for window in windows:
        for demand in window.classes:
            key = (demand.model, demand.workload_class)
            known = totals.get(key)
            totals[key] = demand if known is None else combined(known, demand, sign=1)
    return DemandWindow(
        started_at_s=started_at_s, ended_at_s=ended_at_s, classes=tuple(totals[key] for key in sorted(totals))
    )


def combined(first: ClassDemand, second: ClassDemand, *, sign: int) -> ClassDemand:
    """Sums of two counts of one class (sign 1), or what the first has more than the second (sign -1)."""
    return replace(first, **{name: getattr(first, name) + sign * getattr(second, name) for name in _SUMS})
