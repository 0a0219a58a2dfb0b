"""The provisioner in the simulated world: the same observation, decision and log as the live one.

Only what carries a plan out differs: here replicas start after their start-up time, and drain as the router's
last streams on them end.
"""

from collections import deque
from dataclasses import dataclass, field, replace

from cluster.config.provisioning import PolicyName
from cluster.entities.energy import EnergySource
from cluster.entities.fleet import (
    FleetDecision,
    FleetPlan,
    FleetSnapshot,
    ModelBacklog,
    PoolTarget,
    ProvisionerState,
)
from cluster.policy.observation import PoolFacts, observe
from cluster.policy.provisioning.interface import ProvisioningPolicy
from cluster.policy.provisioning.policies import policy_named
from cluster.simulation.fleet import SimulatedPool, SimulatedReplica
from cluster.simulation.reported_view import ReportedView
from cluster.simulation.world import World

_QUIET_S = 3600.0
"""Two changes of a pool in opposite directions within this time are counted as flapping."""


@dataclass(slots=True)
class PoolTimeline:
    """One pool at every decision."""

    wanted: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    existing: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Timeline:
    """The fleet at every decision; the report's plots are made from it."""

    at_s: list[float] = field(default_factory=list)
    power_w: list[float] = field(default_factory=list)
    arrivals_per_s: list[float] = field(default_factory=list)
    pools: dict[str, PoolTimeline] = field(default_factory=dict)


class Control:
    """Observes, decides and applies every `provisioning.period_s`."""

    def __init__(self, world: World, policy: str | None) -> None:
        """Prepare; `start` schedules the first decision."""
        self._world = world
        self._config = world.config
        name = policy or self._config.provisioning.policy
        self._policy: ProvisioningPolicy | None = None
        if name != "fixed" and self._config.provisioning.enabled:
            self._policy = policy_named(_known(name))
        self._state = ProvisionerState()
        self._window_started_s = 0.0
        self._energy_j = dict.fromkeys(world.pools, 0.0)
        self._made = dict.fromkeys(world.pools, 0)
        self._at_s = 0.0
        self._power_w = 0.0
        """Of the fleet over the last window, whatever the provisioner knows of it."""
        self._changes: dict[str, deque[tuple[float, int]]] = {name: deque(maxlen=2) for name in world.pools}
        self._frozen: FleetSnapshot | None = None
        self._view = ReportedView(world.config) if world.scenario.as_live else None
        self.stale = False
        """Whether replicas' reports do not come through."""
        self.timeline = Timeline(pools={name: PoolTimeline() for name in world.pools})
        self.decisions: list[tuple[FleetSnapshot, FleetDecision]] = []
        """Kept only where `keep_decisions` was set."""
        self.keep_decisions = False
        self.degraded_s = 0.0

    def start(self) -> None:
        """Schedule the first decision."""
        self._world.at(self._config.provisioning.period_s, self._tick)

    def _tick(self, _: object) -> None:
        world = self._world
        snapshot = self.snapshot()
        if self._policy is not None:
            seen = snapshot
            if self.stale and self._frozen is not None:
                # As in the live cluster: the clock goes on, what is reported does not.
                seen = replace(self._frozen, observed_at_s=snapshot.observed_at_s)
            self._frozen = seen
            decision = self._policy(seen, self._state, self._config)
            self._state = decision.state
            if decision.plan.degraded:
                self.degraded_s += self._config.provisioning.period_s
            if self.keep_decisions:
                self.decisions.append((seen, decision))
            self.apply(decision.plan)
        self._record(snapshot)
        for model in self._config.models:
            world.serve_queue(model)
        if not world.done:
            world.at(world.now_s + self._config.provisioning.period_s, self._tick)

    # Observing

    def snapshot(self) -> FleetSnapshot:
        """What the provisioner sees now; takes the demand since the last snapshot."""
        world = self._world
        now_s, wall_s = world.now_s, world.wall_s
        reports = [
            replica.report(now_s, wall_s)
            for pool in world.pools.values()
            for replica in (*pool.ready, *pool.draining)
        ]
        demand = world.tally.take(wall_s + self._window_started_s, wall_s + now_s)
        self._window_started_s = now_s
        told = {name: self._facts(pool) for name, pool in world.pools.items()}
        self._power_w = sum(pool.power_w or 0.0 for pool in told.values())
        facts = told if self._view is None else self._view.facts(world, reports, told)
        self._at_s = now_s
        backlog = tuple(
            ModelBacklog(model=model, requests=len(queue))
            for model, queue in sorted(world.router.queues.items())
            if queue
        )
        return observe(
            config=self._config,
            observed_at_s=wall_s + now_s,
            reports=reports,
            pools=facts,
            demand=demand,
            backlog=backlog,
        )

    def _facts(self, pool: SimulatedPool) -> PoolFacts:
        world = self._world
        energy_j = pool.energy_j(world.now_s)
        span_s = world.now_s - self._at_s
        power_w = (energy_j - self._energy_j[pool.name]) / span_s if span_s > 0 else None
        self._energy_j[pool.name] = energy_j
        made = pool.output_tokens()
        made_per_s = (made - self._made[pool.name]) / span_s if span_s > 0 else None
        self._made[pool.name] = made
        return PoolFacts(
            replicas_wanted=pool.wanted,
            starting=pool.observed_starting(world.wall_s),
            replicas_placeable=pool.placeable,
            unplaced_since_s=None if pool.unplaced_since_s is None else world.wall_s + pool.unplaced_since_s,
            performance=pool.performance,
            power_w=power_w,
            power_source=EnergySource.MODELLED,
            output_tokens_per_s=made_per_s,
            stage_since_s={
                replica.replica_id: world.wall_s + replica.since_s
                for replica in (*pool.ready, *pool.draining)
            },
        )

    # Applying

    def apply(self, plan: FleetPlan) -> None:
        """Carry a plan out as far as the hardware allows."""
        limits_changed = False
        for target in plan.pools:
            pool = self._world.pools[target.pool]
            wanted_limits = (target.prompt_tokens_min, target.prompt_tokens_max)
            if pool.prompt_limits != wanted_limits:
                pool.prompt_limits = wanted_limits
                limits_changed = True
            if target.replicas != pool.wanted:
                self._count_change(pool, target.replicas - pool.wanted)
                pool.wanted = target.replicas
            self.reconcile(pool, target)
        if limits_changed:
            self._world.router.refresh()

    def reconcile(self, pool: SimulatedPool, target: PoolTarget | None = None) -> None:
        """Start and drain until the pool has what is wanted, or all that can be placed."""
        world = self._world
        alive = len(pool.ready) + len(pool.starting)
        for _ in range(pool.wanted - alive):
            if pool.existing >= pool.placeable:
                break
            world.start_replica(pool)
        short = len(pool.ready) + len(pool.starting) < pool.wanted
        if not short:
            pool.unplaced_since_s = None
        elif pool.unplaced_since_s is None:
            pool.unplaced_since_s = world.now_s
        excess = len(pool.ready) + len(pool.starting) - pool.wanted
        for starting in pool.starting[::-1][: max(0, excess)]:
            world.cancel_start(pool, starting)
            excess -= 1
        for replica in self._victims(pool, target)[: max(0, excess)]:
            world.drain(replica)

    def _victims(self, pool: SimulatedPool, target: PoolTarget | None) -> list[SimulatedReplica]:
        order = {name: place for place, name in enumerate(target.drain_first if target else ())}
        return sorted(pool.ready, key=lambda r: (order.get(r.replica_id, len(order)), r.replica_id))

    def _count_change(self, pool: SimulatedPool, delta: int) -> None:
        direction = 1 if delta > 0 else -1
        if direction > 0:
            pool.scale_ups += 1
        else:
            pool.scale_downs += 1
        changes = self._changes[pool.name]
        if changes and changes[-1][1] != direction and self._world.now_s - changes[-1][0] < _QUIET_S:
            pool.direction_changes += 1
        changes.append((self._world.now_s, direction))

    def _record(self, snapshot: FleetSnapshot) -> None:
        timeline = self.timeline
        window = snapshot.demand
        span_s = window.ended_at_s - window.started_at_s
        arrivals = sum(demand.arrivals for demand in window.classes)
        timeline.at_s.append(self._world.now_s)
        timeline.power_w.append(self._power_w)
        timeline.arrivals_per_s.append(arrivals / span_s if span_s > 0 else 0.0)
        for name, pool in self._world.pools.items():
            line = timeline.pools[name]
            line.wanted.append(pool.wanted)
            line.ready.append(len(pool.ready))
            line.existing.append(pool.existing)


def _known(name: str) -> PolicyName:
    names = PolicyName.__args__  # type: ignore[attr-defined]  # a Literal's members
    if name not in names:
        raise ValueError(f"no provisioning policy {name!r}; there are: {', '.join(names)} and fixed")
    return name  # type: ignore[return-value]  # just checked
