"""Observe, decide, note, act, publish: once every period, whatever fails meanwhile."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from cluster.config import TidemillConfig
from cluster.entities.fleet import FleetDecision, FleetSnapshot, ProvisionerState
from cluster.performance.reported import LearntSpeed
from cluster.policy.provisioning.interface import ProvisioningPolicy
from deployments.messages import FleetOverview, PublishedPlan
from operators.provisioner.nodes import NodeBundle, bundles_wanted
from operators.provisioner.observer import Observer, without_engine_details
from operators.provisioner.serve_api import ServeApiError, ServePool

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


class Nodes(Protocol):
    """What is asked of Ray's autoscaler."""

    async def request(self, bundles: Sequence[NodeBundle]) -> None:
        """Ask for nodes, in place of what was asked for before."""
        ...


class Records(Protocol):
    """Where decisions go."""

    def restore(self) -> ProvisionerState:
        """The state of the last decision."""
        ...

    def restore_learnt(self) -> Mapping[str, LearntSpeed]:
        """What was learnt of the pools' speed."""
        ...

    def keep_learnt(self, learnt: Mapping[str, LearntSpeed]) -> None:
        """Keep it."""
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
        nodes: Nodes,
        records: Records,
        observer: Observer,
    ) -> None:
        """Go on from the state before the restart."""
        self._config = config
        self._policy = policy
        self._directory = directory
        self._scaler = scaler
        self._nodes = nodes
        self._requested: tuple[NodeBundle, ...] | None = None
        """What stands with the autoscaler; None if that is not known."""
        self._request_failed = False
        self._records = records
        self._observer = observer
        self._state = records.restore()
        observer.recall(records.restore_learnt())
        self.paused = not config.provisioning.enabled
        """Whether it only watches."""
        self.serving: frozenset[str] | None = None
        """Ids of the nodes that replicas reported from last; None if nobody was asked yet."""
        self.last: PublishedPlan | None = None
        self.failures = 0
        """Rounds in a row that failed."""

    async def run(self, wall_s: Callable[[], float]) -> None:
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

    async def round(self, now_s: float) -> PublishedPlan | None:
        """One round; None if it could only look."""
        overview = await self._directory.overview()
        self.serving = frozenset(report.node_id for report in overview.replicas)
        serve = await self._scaler.pools(list(self._config.pools))
        blind = not self._observer.has_window and self._state == ProvisionerState()
        seen = self._observer.look(overview, serve, now_s=now_s)
        if blind:
            # Nothing is known of the demand, not even by memory: what runs would be taken for superfluous.
            self._observer.accept()
            return None
        snapshot = without_engine_details(seen.snapshot)
        before = self._state
        decision = self._policy(snapshot, before, self._config)
        if self.paused:
            self._observer.accept()
            await self._request_nodes(())
        else:
            self._records.keep_learnt(self._observer.learnt())
            self._records.write(snapshot, before, decision)
            self._state = decision.state
            self._observer.accept()
            bundles = bundles_wanted(decision.plan, snapshot.pools, self._config)
            # Before the replicas that need nodes, and before those go that keep them busy.
            await self._request_nodes(bundles if self._config.provisioning.prewarm else ())
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

    async def _request_nodes(self, bundles: tuple[NodeBundle, ...]) -> None:
        """Tell the autoscaler what has changed; it is a convenience, and the round goes on without it."""
        if bundles == self._requested:
            return
        try:
            await self._nodes.request(bundles)
        except Exception as error:  # noqa: BLE001 - whatever Ray raises
            # Said once, not every round: replicas that wait bring their nodes all the same.
            level = logging.DEBUG if self._request_failed else logging.WARNING
            logger.log(
                level, "nodes could not be asked for in advance: %s", str(error) or type(error).__name__
            )
            self._requested, self._request_failed = None, True
            return
        self._request_failed = False
        if bundles or self._requested:
            logger.info("asked Ray's autoscaler for nodes for %d replicas", len(bundles))
        self._requested = bundles

    async def _apply(self, decision: FleetDecision, serve: Mapping[str, ServePool]) -> None:
        """Resize every pool that can be, whatever the others answer; the next round tries the rest again."""
        refused = []
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
            try:
                await self._scaler.scale(target.pool, known.deployment, target.replicas)
            except ServeApiError as error:
                refused.append(f"{target.pool}: {error}")
        if refused:
            raise ServeApiError("; ".join(refused))
