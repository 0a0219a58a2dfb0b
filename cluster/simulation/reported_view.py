"""What the simulated provisioner knows when it is told no more than the live one: reports and Serve's facts.

The same classes learn here and in the live cluster; only where the reports come from differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.config import TidemillConfig
from cluster.entities.energy import EnergySource
from cluster.entities.fleet import ReplicaObservation, ReplicaStage
from cluster.entities.pool import PoolName, ReplicaId, ReplicaReport
from cluster.performance.profiles import pool_performance
from cluster.performance.reported import (
    OutputRates,
    PoolPower,
    ReportWindows,
    SpeedLearner,
    modelled_w,
)
from cluster.policy.observation import PoolFacts
from cluster.policy.stages import DrainsSeen
from cluster.simulation.fleet import SimulatedPool
from cluster.simulation.world import World


class ReportedView:
    """Remembers what it takes to tell speed and power from reports."""

    def __init__(self, config: TidemillConfig) -> None:
        """Start from the catalogue, whatever the scenario says of the replicas' true speed."""
        self._speed = SpeedLearner(
            {name: pool_performance(pool, config.models[pool.model]) for name, pool in config.pools.items()}
        )
        self._windows = ReportWindows()
        self._power = PoolPower()
        self._made = OutputRates()
        self._drains = DrainsSeen()

    def facts(
        self, world: World, reports: Sequence[ReplicaReport], told: Mapping[str, PoolFacts]
    ) -> dict[str, PoolFacts]:
        """What is known of every pool.

        Args:
            world: whose clock and pending replicas are looked at.
            reports: of every replica that reports.
            told: what the simulator knows; what a live cluster could not tell is replaced.
        """
        performance = self._speed.performance()
        watts: dict[PoolName, list[tuple[float, EnergySource]]] = {}
        for window in self._windows.advance(reports):
            power_w = modelled_w(performance[window.after.pool], window)
            watts.setdefault(window.after.pool, []).append((power_w, EnergySource.MODELLED))
        self._power.update(watts, reports)
        self._speed.learn(reports)
        made_per_s = self._made.update(reports)
        draining_since_s = self._drains.update(reports, world.wall_s + world.now_s)
        known = {}
        for name, facts in told.items():
            power = self._power.of(name)
            known[name] = replace(
                facts,
                performance=performance[name],
                starting=(*facts.starting, *waiting_replicas(world.pools[name], world.wall_s)),
                replicas_placeable=None,
                power_w=None if power is None else power[0],
                power_source=None if power is None else power[1],
                output_tokens_per_s=made_per_s.get(name),
                stage_since_s=draining_since_s,
            )
        return known


def waiting_replicas(pool: SimulatedPool, wall_s: float) -> tuple[ReplicaObservation, ...]:
    """Replicas that are wanted and find no hardware: to Serve they are starting, for as long as it takes."""
    if pool.unplaced_since_s is None:
        return ()
    missing = pool.wanted - len(pool.ready) - len(pool.starting)
    return tuple(
        ReplicaObservation(
            replica_id=ReplicaId(f"{pool.name}-waiting-{number:05d}"),
            stage=ReplicaStage.STARTING,
            since_s=wall_s + pool.unplaced_since_s,
        )
        for number in range(missing)
    )
