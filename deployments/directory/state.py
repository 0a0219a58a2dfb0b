"""What the directory knows, without Ray and without a clock.

Routers watch the directory with the version they have applied. That makes draining exact: a replica that
wants to leave is marked, and once every live watcher has come back with a version at least as new, no
router can send it anything more.
"""

from dataclasses import dataclass, field, replace

from cluster.entities.pool import ReplicaId, ReplicaPhase, ReplicaReport
from deployments.messages import (
    DemandReport,
    FleetOverview,
    FleetState,
    NodeEnergy,
    PublishedAdapters,
    PublishedPlan,
    ServiceReport,
)

REPORT_EXPIRY_S = 10.0
"""A replica that has not reported for so long is taken for dead (they report every second; a busy CPU engine
can starve its reporter for a few)."""
WATCHER_EXPIRY_S = 10.0
"""A router that has not come back for so long is taken for dead and not waited for."""
LEFT_MEMORY_S = 600.0
"""How long late reports of a replica that has left are recognised as such."""
ENTRIES_MAX = 10_000
"""Replicas, services and watchers each; more is a malfunction, and new ones are refused."""


@dataclass(slots=True)
class _Watcher:
    applied_version: int
    seen_at_s: float


@dataclass(slots=True)
class DirectoryState:
    """Mutable, single-threaded; every method takes the time."""

    version: int
    """Starts at the wall clock in milliseconds, so that it also grows across restarts of the directory."""
    _replicas: dict[ReplicaId, tuple[ReplicaReport, float]] = field(default_factory=dict)
    _services: dict[str, tuple[ServiceReport, float]] = field(default_factory=dict)
    _left: dict[ReplicaId, float] = field(default_factory=dict)
    _marked: dict[ReplicaId, int] = field(default_factory=dict)
    _watchers: dict[str, _Watcher] = field(default_factory=dict)
    _demand: dict[str, tuple[DemandReport, float]] = field(default_factory=dict)
    _energy: dict[str, tuple[NodeEnergy, float]] = field(default_factory=dict)
    _plan: PublishedPlan | None = None
    _adapters: PublishedAdapters | None = None

    def report(self, report: ReplicaReport, *, now_s: float) -> bool:
        """Take a replica's report; True if routing must hear of it at once."""
        known = self._replicas.get(report.replica_id)
        if report.replica_id in self._left or (known is None and len(self._replicas) >= ENTRIES_MAX):
            return False
        if known is not None and known[0].phase is ReplicaPhase.DRAINING:
            report = replace(report, phase=ReplicaPhase.DRAINING)
        self._replicas[report.replica_id] = (report, now_s)
        changed = known is None or (known[0].phase, known[0].url) != (report.phase, report.url)
        if changed:
            self.version += 1
            if report.phase is ReplicaPhase.DRAINING:
                self._marked[report.replica_id] = self.version
        return changed

    def report_service(self, report: ServiceReport, *, now_s: float) -> bool:
        """Take a service's report; True if routing must hear of it at once."""
        known = self._services.get(report.replica_id)
        if ReplicaId(report.replica_id) in self._left or (
            known is None and len(self._services) >= ENTRIES_MAX
        ):
            return False
        self._services[report.replica_id] = (report, now_s)
        changed = known is None or known[0].url != report.url
        self.version += changed
        return changed

    def report_demand(self, report: DemandReport, *, now_s: float) -> None:
        """Take a router's sums."""
        if report.router_id in self._demand or len(self._demand) < ENTRIES_MAX:
            self._demand[report.router_id] = (report, now_s)

    def report_energy(self, report: NodeEnergy, *, now_s: float) -> None:
        """Take a node's meter readings."""
        if report.node_id in self._energy or len(self._energy) < ENTRIES_MAX:
            self._energy[report.node_id] = (report, now_s)

    def publish(self, plan: PublishedPlan) -> None:
        """Take the provisioner's last decision."""
        self._plan = plan

    def publish_adapters(self, adapters: PublishedAdapters) -> bool:
        """Take what the coordinator of adapters says; True if routing must hear of it at once."""
        known, self._adapters = self._adapters, adapters
        changed = known is None or known.catalogue.version != adapters.catalogue.version
        self.version += changed
        return changed

    def overview(self, *, now_s: float) -> FleetOverview:
        """What the provisioner decides from."""
        return FleetOverview(
            replicas=tuple(report for report, _ in self._replicas.values()),
            demand=tuple(report for report, _ in self._demand.values()),
            energy=tuple(report for report, _ in self._energy.values()),
            ages_s={name: now_s - at_s for name, (_, at_s) in self._replicas.items()},
        )

    def drain(self, replica_id: ReplicaId) -> bool:
        """Take a replica out of routing while it finishes its streams."""
        known = self._replicas.get(replica_id)
        if known is None:
            return False
        if known[0].phase is not ReplicaPhase.DRAINING:
            self.version += 1
            self._replicas[replica_id] = (replace(known[0], phase=ReplicaPhase.DRAINING), known[1])
            self._marked[replica_id] = self.version
        return True

    def leave(self, replica_id: str, *, now_s: float) -> bool:
        """Forget a replica or service for good; late reports of it are ignored."""
        self._left[ReplicaId(replica_id)] = now_s
        known = self._replicas.pop(ReplicaId(replica_id), None)
        service = self._services.pop(replica_id, None)
        self._marked.pop(ReplicaId(replica_id), None)
        self.version += known is not None or service is not None
        return known is not None or service is not None

    def seen(self, watcher: str, applied_version: int, *, now_s: float) -> None:
        """Note that a router has applied a version."""
        if watcher in self._watchers or len(self._watchers) < ENTRIES_MAX:
            self._watchers[watcher] = _Watcher(applied_version, now_s)

    def unwatch(self, watcher: str) -> None:
        """A router is gone and need not be waited for."""
        self._watchers.pop(watcher, None)

    def routed_around(self, replica_id: ReplicaId, *, now_s: float) -> bool:
        """Whether no live router can still choose a draining replica."""
        marked = self._marked.get(replica_id)
        if marked is None:
            return replica_id not in self._replicas
        return all(
            watcher.applied_version >= marked
            for watcher in self._watchers.values()
            if now_s - watcher.seen_at_s <= WATCHER_EXPIRY_S
        )

    def expire(self, *, now_s: float) -> bool:
        """Drop what has gone silent; True if routing must hear of it."""
        silent = [name for name, (_, at_s) in self._replicas.items() if now_s - at_s > REPORT_EXPIRY_S]
        services = [name for name, (_, at_s) in self._services.items() if now_s - at_s > REPORT_EXPIRY_S]
        for name in silent:
            report, _ = self._replicas.pop(name)
            if report.phase is ReplicaPhase.DRAINING:
                self._left[name] = now_s  # it was on its way out, and does not come back
            self._marked.pop(name, None)
        for service in services:
            del self._services[service]
        for left in [name for name, at_s in self._left.items() if now_s - at_s > LEFT_MEMORY_S]:
            del self._left[left]
        # Longer than the provisioner's pause, so that it sees a dead router's last sums.
        for router in [name for name, (_, at_s) in self._demand.items() if now_s - at_s > LEFT_MEMORY_S]:
            del self._demand[router]
        for node in [name for name, (_, at_s) in self._energy.items() if now_s - at_s > REPORT_EXPIRY_S]:
            del self._energy[node]
        for watcher in [w for w, v in self._watchers.items() if now_s - v.seen_at_s > WATCHER_EXPIRY_S]:
            del self._watchers[watcher]
        changed = bool(silent or services)
        self.version += changed
        return changed

    def fleet(self) -> FleetState:
        """What watchers are told."""
        return FleetState(
            version=self.version,
            replicas=tuple(report for report, _ in self._replicas.values()),
            services=tuple(report for report, _ in self._services.values()),
            plan=self._plan,
            adapters=self._adapters,
        )
