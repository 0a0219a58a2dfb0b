"""Observe, decide, note, act, publish: once every period, whatever fails meanwhile."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from cluster.config import TidemillConfig
from cluster.entities.fleet import FleetDecision, FleetSnapshot, ProvisionerState
from cluster.policy.provisioning.interface import ProvisioningPolicy
from deployments.messages import FleetOverview, PublishedPlan
from operators.provisioner.observer import Observer, without_engine_details
from operators.provisioner.serve_api import ServePool

logger = logging.getLogger("tidemill.provisioner")


class Directory(Protocol):
    """What is asked of and told to the fleet directory."""

    async def overview(self) -> FleetOverview:
        """What replicas, routers and nodes report."""
        ...

    async def publish(self, plan: PublishedPlan) -> None:
        """Tell routers and people."""
        ...


class Scaler(Protocol):
    """What is asked of and told to Serve."""

    async def pools(self, names: list[str]) -> Mapping[str, ServePool]:
        """What Serve runs."""
        ...

    async def scale(self, pool: str, deployment: str, replicas: int) -> None:
        """Change a pool's size."""
        ...


class Records(Protocol):
    """Where decisions go."""

    def restore(self) -> ProvisionerState:
        """The state of the last decision."""
        ...

    def write(self, snapshot: FleetSnapshot, before: ProvisionerState, decision: FleetDecision) -> None:
        """Keep a decision."""
        ...


class ProvisionerLoop:
    """The provisioner without Ray."""

    def __init__(
        self,
        config: TidemillConfig,
        policy: ProvisioningPolicy,
        *,
        directory: Directory,
        scaler: Scaler,
        records: Records,
        observer: Observer,
    ) -> None:
        """Take up the state that the last life left."""
        self._config = config
        self._policy = policy
        self._directory = directory
        self._scaler = scaler
        self._records = records
        self._observer = observer
        self._state = records.restore()
        self.paused = not config.provisioning.enabled
        """Whether it only watches."""
        self.last: PublishedPlan | None = None
        self.failures = 0
        """Rounds in a row that failed."""

    async def run(self, wall_s: "Clock") -> None:
        """Go on for ever.

        Args:
            wall_s: Unix time.
        """
        while True:
            try:
                await self.round(wall_s())
                self.failures = 0
            except asyncio.CancelledError:
                raise
            except Exception:
                # Nothing is changed by a round that fails; the fleet stays as it is until the next.
                self.failures += 1
                logger.exception("round failed (%d in a row)", self.failures)
            await asyncio.sleep(self._config.provisioning.period_s)

    async def round(self, now_s: float) -> PublishedPlan:
        """One round."""
        overview = await self._directory.overview()
        serve = await self._scaler.pools(list(self._config.pools))
        seen = self._observer.look(overview, serve, now_s=now_s)
        snapshot = without_engine_details(seen.snapshot)
        before = self._state
        decision = self._policy(snapshot, before, self._config)
        if not self.paused:
            self._records.write(snapshot, before, decision)
            self._state = decision.state
            await self._apply(decision, serve)
        self.last = PublishedPlan(
            decided_at_s=now_s,
            policy=self._config.provisioning.policy,
            plan=decision.plan,
            pools=snapshot.pools,
            forecast=decision.forecast,
            reasons=decision.reasons,
            energy=seen.energy,
            meter_errors=seen.meter_errors,
        )
        await self._directory.publish(self.last)
        return self.last

    async def _apply(self, decision: FleetDecision, serve: Mapping[str, ServePool]) -> None:
        for target in decision.plan.pools:
            known = serve.get(target.pool)
            bounds = self._config.pools[target.pool].replicas
            if known is None or known.replicas_wanted == target.replicas or bounds.min == bounds.max:
                continue
            reasons = ", ".join(target.reasons)
            logger.info(
                "pool %s: %d -> %d replicas (%s)",
                target.pool,
                known.replicas_wanted,
                target.replicas,
                reasons,
            )
            await self._scaler.scale(target.pool, known.deployment, target.replicas)


class Clock(Protocol):
    """Unix time."""

    def __call__(self) -> float:
        """Now."""
        ...
