"""Runs a scenario from the first arrival to the last token."""

from collections.abc import Callable

import numpy as np

from cluster.entities.routing import Path
from cluster.simulation.control import Control
from cluster.simulation.faults import Fault, HardwareLost, ReplicaFailure, SignalsStale
from cluster.simulation.fleet import SimulatedPool
from cluster.simulation.invariants import Invariants
from cluster.simulation.report import PoolReport, Report, quantiles
from cluster.simulation.request import SimulatedRequest
from cluster.simulation.scenario import Scenario
from cluster.simulation.world import World

_PROGRESS_EVENTS = 20_000


class Simulation:
    """A scenario under way: its world, its control, its faults."""

    def __init__(self, scenario: Scenario) -> None:
        """Set everything up; nothing happens yet."""
        self.scenario = scenario
        self.world = World(scenario)
        self.control = Control(self.world, scenario.policy)
        self.control.start()
        for fault in scenario.faults:
            self._schedule(fault)
        self._books: dict[str, tuple[float, float]] = {}
        # Energy and cost are compared over the same span whatever the policy: until the last arrival.
        self.world.at(self.world.last_arrival_s, self._close_books)
        if scenario.check_invariants:
            self.world.watch(Invariants(self.world).check)

    def run(self, progress: Callable[[float], None] | None = None) -> Report:
        """Run to the end.

        Args:
            progress: told now and then which part of the trace is done, 0..1.
        """
        world = self.world
        if progress is None:
            world.run(lambda: world.done)
        else:
            self._run_with(progress)
        if not self._books:
            self._close_books(None)
        return self._report()

    def _run_with(self, progress: Callable[[float], None]) -> None:
        world = self.world
        total_s = max(world.last_arrival_s, 1e-9)
        while not world.done:
            target = world.events + _PROGRESS_EVENTS
            before = world.events
            world.run(lambda target=target: world.done or world.events >= target)  # type: ignore[misc]
            progress(min(1.0, world.now_s / total_s))
            if world.events == before:
                return

    def _close_books(self, _: object) -> None:
        world = self.world
        self._books = {
            name: (pool.energy_j(world.now_s), pool.replica_s(world.now_s))
            for name, pool in world.pools.items()
        }

    # Faults

    def _schedule(self, fault: Fault) -> None:
        world = self.world
        if isinstance(fault, ReplicaFailure):
            world.at(fault.at_s, self._fail_replica, fault)
        elif isinstance(fault, HardwareLost):
            world.at(fault.at_s, self._lose_hardware, fault)
            world.at(fault.until_s, self._return_hardware, fault)
        elif isinstance(fault, SignalsStale):
            world.at(fault.at_s, self._set_stale, True)  # noqa: FBT003 - an event's argument
            world.at(fault.until_s, self._set_stale, False)  # noqa: FBT003

    def _fail_replica(self, fault: ReplicaFailure) -> None:
        pool = self.world.pools[fault.pool]
        if pool.ready:
            self.world.kill(pool.ready[0])
            # Serve replaces a dead replica without being told.
            self.control.reconcile(pool)

    def _lose_hardware(self, fault: HardwareLost) -> None:
        for pool in self._pools_on(fault.gpu_type):
            pool.placeable = 0 if fault.kills else len(pool.ready)
            if fault.kills:
                for starting in list(pool.starting):
                    self.world.cancel_start(pool, starting)
                for replica in [*pool.ready, *pool.draining]:
                    self.world.kill(replica)
            self.control.reconcile(pool)

    def _return_hardware(self, fault: HardwareLost) -> None:
        for pool in self._pools_on(fault.gpu_type):
            pool.placeable = pool.config.replicas.max
            self.control.reconcile(pool)

    def _pools_on(self, gpu_type: str) -> list[SimulatedPool]:
        return [pool for pool in self.world.pools.values() if pool.config.gpu_type == gpu_type]

    def _set_stale(self, stale: bool) -> None:
        self.control.stale = stale

    # Reporting

    def _report(self) -> Report:
        world, warm_up_s = self.world, self.scenario.warm_up_s
        counted = [request for request in world.requests if request.arrived_at_s >= warm_up_s]
        finished = [request for request in counted if request.ended_at_s >= 0.0 and not request.failed]
        ttft_s = np.array([request.ttft_s for request in finished], dtype=np.float64)
        tpot_s = np.array([request.tpot_s for request in finished], dtype=np.float64)
        pools = {name: self._pool_report(name, pool) for name, pool in world.pools.items()}
        met = sum(1 for request in finished if self._meets_slo(request))
        return Report(
            requests=len(counted),
            completed=len(finished),
            failed=world.failed,
            rejected=world.rejected,
            duration_s=world.last_arrival_s,
            energy_j=sum(pool.energy_j for pool in pools.values()),
            cost_usd=sum(pool.cost_usd for pool in pools.values()),
            slo_attainment=met / len(counted) if counted else 1.0,
            ttft_s=quantiles(ttft_s),
            tpot_s=quantiles(tpot_s),
            output_tokens=sum(request.output_tokens for request in finished),
            prompt_tokens=sum(request.prompt_tokens for request in finished),
            cached_tokens=sum(request.cached_tokens for request in finished),
            disaggregated=sum(1 for request in finished if request.path is Path.DISAGGREGATED),
            scale_events=sum(pool.scale_ups + pool.scale_downs for pool in pools.values()),
            direction_changes=sum(pool.direction_changes for pool in pools.values()),
            degraded_s=self.control.degraded_s,
            pools=pools,
            timeline=self.control.timeline,
            events=world.events,
        )

    def _meets_slo(self, request: SimulatedRequest) -> bool:
        slo = self.world.config.models[request.model].slo
        return request.ttft_s <= slo.ttft_s and request.tpot_s <= slo.tpot_s

    def _pool_report(self, name: str, pool: SimulatedPool) -> PoolReport:
        energy_j, replica_s = self._books[name]
        existing = self.control.timeline.pools[name].existing
        engines = [replica.engine for replica in (*pool.ready, *pool.draining)]
        return PoolReport(
            energy_j=energy_j,
            cost_usd=replica_s / 3600.0 * pool.performance.price_usd_per_h,
            replica_s=replica_s,
            replicas_max=max(existing, default=pool.existing),
            scale_ups=pool.scale_ups,
            scale_downs=pool.scale_downs,
            direction_changes=pool.direction_changes,
            preemptions=pool.gone_preemptions + sum(engine.preemptions for engine in engines),
            output_tokens=pool.gone_output_tokens + sum(engine.meter.output_tokens for engine in engines),
        )


def simulate(scenario: Scenario, progress: Callable[[float], None] | None = None) -> Report:
    """Run a scenario.

    Args:
        scenario: fleet, traffic, policy, seed and faults.
        progress: told now and then which part of the trace is done, 0..1.

    Raises:
        InvariantError: the world contradicted itself (`Scenario.check_invariants`).
        ValueError: the scenario names a policy, model or pool that does not exist.
    """
    return Simulation(scenario).run(progress)
