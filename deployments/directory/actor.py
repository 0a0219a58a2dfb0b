"""The directory as a named Ray actor, and how replicas and routers reach it.

Only small facts pass through it (a report a second from each replica, one long poll from each router);
requests and tokens never do. Routers keep serving from their last picture while it is away, and it is
filled again by the next reports after a restart.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import ray

from cluster.entities.pool import ReplicaId, ReplicaReport
from deployments.directory.exchange import RouterExchange
from deployments.directory.head_actors import NAMESPACE, end_to_restart, start_on_head
from deployments.directory.keeper import Keeper, NamespaceActors
from deployments.directory.state import DirectoryState
from deployments.messages import (
    DemandReport,
    FleetOverview,
    FleetState,
    NodeEnergy,
    PublishedAdapters,
    PublishedPlan,
    RouterShare,
    ServiceReport,
)

logger = logging.getLogger("tidemill.directory")

__all__ = ["ACTOR_NAME", "NAMESPACE", "DirectoryClient", "FleetDirectory", "start_directory"]

ACTOR_NAME = "tidemill-directory"
WATCH_TIMEOUT_S = 1.0
"""A watcher hears at least this often, so loads are never older than this plus a report's age."""
_RETRY_S = 0.5
_FILLING_S = 2.5
_HANGS_AFTER_S = 20.0
"""A directory from which a watcher has heard nothing for so long stands still: Ray is to start it anew."""


class FleetDirectory:
    """The actor's body: a `DirectoryState`, a clock and a condition to wake watchers with."""

    def __init__(self, keeper: Keeper | None = None) -> None:
        self._state = DirectoryState(version=int(time.time() * 1000))
        self._exchange = RouterExchange()
        self._changed = asyncio.Condition()
        self._full_at_s = time.monotonic() + _FILLING_S
        self._expiry = asyncio.ensure_future(self._expire())
        self._keeping = None if keeper is None else asyncio.ensure_future(keeper.run())

    async def report(self, report: ReplicaReport) -> None:
        """Take a replica's report."""
        await self._tell(self._state.report(report, now_s=time.monotonic()))

    async def report_service(self, report: ServiceReport) -> None:
        """Take a service's report."""
        await self._tell(self._state.report_service(report, now_s=time.monotonic()))

    async def report_demand(self, report: DemandReport) -> None:
        """Take a router's sums."""
        self._state.report_demand(report, now_s=time.monotonic())

    async def report_energy(self, report: NodeEnergy) -> None:
        """Take a node's meter readings."""
        self._state.report_energy(report, now_s=time.monotonic())

    async def overview(self) -> FleetOverview:
        """What the provisioner decides from; waits after a restart until the replicas have reported again."""
        await asyncio.sleep(max(0.0, self._full_at_s - time.monotonic()))
        return self._state.overview(now_s=time.monotonic())

    async def publish(self, plan: PublishedPlan) -> None:
        """Take the provisioner's last decision; watchers hear of it with the next change or after a while."""
        self._state.publish(plan)

    async def publish_adapters(self, adapters: PublishedAdapters) -> None:
        """Take what the coordinator of adapters says; watchers hear of a new catalogue at once."""
        await self._tell(self._state.publish_adapters(adapters))

    async def leave(self, replica_id: str) -> None:
        """Forget a replica or service."""
        await self._tell(self._state.leave(replica_id, now_s=time.monotonic()))

    async def drain(self, replica_id: str, timeout_s: float) -> bool:
        """Take a replica out of routing; returns when no live router can choose it (False: timed out)."""
        if not self._state.drain(ReplicaId(replica_id)):
            return True
        await self._tell(changed=True)
        deadline_s = time.monotonic() + timeout_s
        while not self._state.routed_around(ReplicaId(replica_id), now_s=time.monotonic()):
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(0.05)
        return True

    async def unwatch(self, watcher: str) -> None:
        """A router is gone and need not be waited for."""
        self._state.unwatch(watcher)
        self._exchange.forget(watcher)

    async def exchange(self, router: str, share: RouterShare) -> RouterShare:
        """Take what a router has in flight; what all others have."""
        return self._exchange.swap(router, share, now_s=time.monotonic())

    async def watch(self, watcher: str, applied_version: int) -> FleetState:
        """The fleet, as soon as it is newer than what the watcher has applied, or after a while as it is."""
        self._state.seen(watcher, applied_version, now_s=time.monotonic())
        if applied_version:
            # After a restart the replicas report again within a second; until then a router's own picture
            # is better than this one.
            await asyncio.sleep(max(0.0, self._full_at_s - time.monotonic()))
        if self._state.version == applied_version:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_TIMEOUT_S), self._changed:
                    await self._changed.wait()
        return self._state.fleet()

    async def _tell(self, changed: bool) -> None:
        if changed:
            async with self._changed:
                self._changed.notify_all()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self._tell(self._state.expire(now_s=time.monotonic()))


def start_directory(*, keeps: Mapping[str, str] = MappingProxyType({})) -> None:
    """Create the actor if it is not there.

    Args:
        keeps: actors of other namespaces that it is to end if they stand still, with their namespaces.
    """
    keeper = Keeper(NamespaceActors(but=ACTOR_NAME, also=keeps))
    start_on_head(FleetDirectory, keeper, name=ACTOR_NAME, max_concurrency=10_000, replace=False)


class DirectoryClient:
    """One process's connection to the directory; survives the actor's restart."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of the directory.

        Raises:
            ray.exceptions.RayError, ValueError: the directory is away.
        """
        if self._handle is None:
            self._handle = await asyncio.to_thread(ray.get_actor, ACTOR_NAME, NAMESPACE)
        try:
            return await getattr(self._handle, method).remote(*args)
        except ray.exceptions.RayActorError:
            self._handle = None
            raise

    async def watch(self, watcher: str, apply: Callable[[FleetState], None]) -> None:
        """Apply every new picture of the fleet, for ever."""
        version, heard = 0, False
        while True:
            try:
                async with asyncio.timeout(_HANGS_AFTER_S):
                    fleet = await self.call("watch", watcher, version)
            except TimeoutError:
                logger.warning("directory stands still, serving from the last picture")
                if heard:  # else it may still be starting
                    await self._end()
                heard = False
                continue
            except (ray.exceptions.RayError, ValueError) as error:
                logger.warning("directory away, serving from the last picture: %s", error)
                heard = False
                await asyncio.sleep(_RETRY_S)
                continue
            heard = True
            try:
                apply(fleet)
            except Exception:
                # It must not be the last picture: with none, a router would send to who has left long ago.
                logger.exception("the fleet's picture was not applied")
                await asyncio.sleep(_RETRY_S)
                continue
            version = fleet.version

    async def _end(self) -> None:
        """End the directory, which comes back empty and is told everything again within two seconds."""
        handle, self._handle = self._handle, None
        if handle is not None:
            await end_to_restart(handle)

    async def keep_exchanging(
        self,
        router: str,
        make: Callable[[], RouterShare],
        hear: Callable[[RouterShare], None],
        *,
        period_s: float,
    ) -> None:
        """Tell the other routers, and hear of them, every period, for ever."""
        while True:
            try:
                hear(await self.call("exchange", router, make()))
            except (ray.exceptions.RayError, ValueError) as error:
                logger.warning("other routers not heard of: %s", error)
                await asyncio.sleep(_RETRY_S)
            except Exception:
                logger.exception("what other routers said was not taken in")
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(period_s)

    async def keep_reporting(
        self, method: str, make: Callable[[], Awaitable[Any]], *, period_s: float = 1.0
    ) -> None:
        """Send a report every period, for ever."""
        while True:
            try:
                await self.call(method, await make())
            except (ray.exceptions.RayError, ValueError) as error:
                logger.warning("report not delivered: %s", error)
            except Exception:
                logger.exception("report not made")
            await asyncio.sleep(period_s)
