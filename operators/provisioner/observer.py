"""Turns what the cluster says into the snapshot that a decision is made from."""

from collections.abc import Iterable, Mapping
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
from cluster.entities.pool import ReplicaId, ReplicaReport
from cluster.performance.profiles import pool_performance
from cluster.performance.reported import LearntSpeed, OutputRates, SpeedLearner
from cluster.policy.observation import PoolFacts, added, combined, observe
from cluster.policy.stages import DrainsSeen
from deployments.messages import DemandReport, FleetOverview, ReplicaEnergy
from operators.provisioner.energy_book import EnergyBook
from operators.provisioner.serve_api import ServePool

_CLOCKS_AGREE_S = 2.0
_ROUTER_MEMORY_S = 3600.0
"""Longer than the directory keeps the sums of a router that is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at the cluster."""

    snapshot: FleetSnapshot
    energy: tuple[ReplicaEnergy, ...]
    meter_errors: tuple[tuple[str, str, str], ...]


class Observer:
    """Remembers what it takes to tell what is new: sums of routers, stages of replicas, engines' counters.

    Demand is new until a decision has been made from it: `accept` says so. What a round that failed has
    looked at is in the next round's snapshot again.
    """

    def __init__(self, config: TidemillConfig) -> None:
        """Look the pools up in the performance catalogue.

        Raises:
            ValueError: a model does not fit on its pool's GPUs.
        """
        self._config = config
        self._speed = SpeedLearner({name: _profile(name, config) for name in config.pools})
        self._book = EnergyBook()
        self._made = OutputRates()
        self._drains = DrainsSeen()
        self._sums: dict[str, tuple[DemandReport, float]] = {}
        """By router: its last report that was accepted, and when it was seen last."""
        self._accepted_at_s: float | None = None
        self._looked: tuple[tuple[DemandReport, ...], float] = ((), 0.0)

    def look(self, overview: FleetOverview, serve: Mapping[str, ServePool], *, now_s: float) -> Observation:
        """Put a snapshot together.

        Args:
            overview: what the directory knows.
            serve: what Serve knows, by pool.
            now_s: Unix time.
        """
        performance = self._speed.performance()
        energy = self._book.update(overview.replicas, overview.energy, performance)
        self._speed.learn(overview.replicas)
        demand, backlog = self._demand(overview.demand, now_s)
        made_per_s = self._made.update(overview.replicas)
        draining_since_s = self._drains.update(overview.replicas, now_s)
        facts = {
            name: replace(
                self._facts(name, serve[name], overview.replicas, performance[name]),
                output_tokens_per_s=made_per_s.get(name),
                stage_since_s=draining_since_s,
            )
            for name in self._config.pools
            if name in serve
        }
        snapshot = observe(
            config=self._config,
            observed_at_s=now_s,
            reports=on_this_clock(overview.replicas, overview.ages_s, now_s=now_s),
            pools=facts,
            demand=demand,
            backlog=backlog,
        )
        self._looked = (overview.demand, now_s)
        errors = tuple(
            (meter, f"{node.node_id[:8]}/{device}", why)
            for node in overview.energy
            for meter, device, why in node.errors
        )
        return Observation(snapshot=snapshot, energy=energy, meter_errors=errors)

    @property
    def has_window(self) -> bool:
        """Whether the next look will know what is new; the first one has nothing to compare with."""
        return self._accepted_at_s is not None

    def learnt(self) -> dict[str, LearntSpeed]:
        """What is known of the pools' speed, to be kept over a restart."""
        return self._speed.learnt()

    def recall(self, learnt: Mapping[str, LearntSpeed]) -> None:
        """Go on from what was learnt before a restart."""
        self._speed.recall(learnt)

    def accept(self) -> None:
        """A decision has been made from the last look: its demand is not new any more."""
        reports, now_s = self._looked
        self._accepted_at_s = now_s
        # A router that the directory does not name (it may just have been restarted) comes back with the same
        # sums, and they would be new a second time.
        kept = {name: found for name, found in self._sums.items() if found[1] > now_s - _ROUTER_MEMORY_S}
        self._sums = kept | {report.router_id: (report, now_s) for report in reports}

    def _demand(
        self, reports: tuple[DemandReport, ...], now_s: float
    ) -> tuple[DemandWindow, tuple[ModelBacklog, ...]]:
        started_at_s = now_s if self._accepted_at_s is None else self._accepted_at_s
        windows = []
        for report in reports:
            before, _ = self._sums.get(report.router_id, (None, 0.0))
            if before is None and self._accepted_at_s is None:
                continue  # what it counted before this provisioner looked for the first time is not new
            windows.append(
                DemandWindow(started_at_s=started_at_s, ended_at_s=now_s, classes=_since(report, before))
            )
        waiting: dict[str, int] = {}
        for report in reports:
            for backlog in report.backlog:
                waiting[backlog.model] = waiting.get(backlog.model, 0) + backlog.requests
        return (
            added(windows, started_at_s=started_at_s, ended_at_s=now_s),
            tuple(
                ModelBacklog(model=model, requests=count) for model, count in sorted(waiting.items()) if count
            ),
        )

    def _facts(
        self,
        name: str,
        serve: ServePool,
        reports: tuple[ReplicaReport, ...],
        performance: ReplicaPerformance,
    ) -> PoolFacts:
        reporting = {str(report.replica_id) for report in reports if report.pool == name}
        starting = tuple(
            ReplicaObservation(
                replica_id=ReplicaId(f"{name}-{replica.replica_id}"),
                stage=ReplicaStage.STARTING,
                since_s=replica.started_at_s or 0.0,
            )
            for replica in serve.existing
            if f"{name}-{replica.replica_id}" not in reporting
        )
        power = self._book.power(name)
        return PoolFacts(
            replicas_wanted=serve.replicas_wanted,
            performance=performance,
            starting=starting,
            unplaced_since_s=serve.unplaced_since_s,
            power_w=None if power is None else power[0],
            power_source=None if power is None else power[1],
        )


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
        more = sums if earlier is None else combined(sums, earlier, sign=-1)
        if more != ClassDemand(model=sums.model, workload_class=sums.workload_class):
            new.append(more)  # a class of which nothing came is not in the window at all
    return tuple(new)


def on_this_clock(
    reports: Iterable[ReplicaReport], ages_s: Mapping[ReplicaId, float], *, now_s: float
) -> tuple[ReplicaReport, ...]:
    """Reports whose instants can be compared with ours, whatever the clocks of their nodes say.

    Where the two agree nothing is changed: how long a report was on its way is known less well than that.

    Args:
        reports: as replicas made them.
        ages_s: how long ago they came; without that they are taken as they are.
        now_s: our Unix time.
    """
    found = []
    for report in reports:
        age_s = ages_s.get(report.replica_id, now_s - report.observed_at_s)
        behind_s = now_s - age_s - report.observed_at_s
        if abs(behind_s) < _CLOCKS_AGREE_S:
            found.append(report)
            continue
        observed_at_s, started_at_s = report.observed_at_s + behind_s, report.started_at_s + behind_s
        found.append(replace(report, observed_at_s=observed_at_s, started_at_s=started_at_s))
    return tuple(found)


def without_engine_details(snapshot: FleetSnapshot) -> FleetSnapshot:
    """The snapshot with sources left out: they are long, and no decision looks at them."""
    pools = tuple(replace(pool, performance=replace(pool.performance, sources=())) for pool in snapshot.pools)
    return replace(snapshot, pools=pools)
