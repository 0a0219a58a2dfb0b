"""Ends named actors that stand still, so that Ray starts them anew.

Ray restarts what has died, and Serve what fails its health checks; a process that is frozen, or whose event
loop hangs, has done neither. The directory watches all other actors of the namespace, and Serve's controller
where the cluster is our own; the routers, whose pictures of the fleet come from it, watch the directory
(`DirectoryClient.watch`).
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import ray

from deployments.directory.head_actors import NAMESPACE, ActorAwayError, end_to_restart

logger = logging.getLogger("tidemill.keeper")

_PERIOD_S = 5.0
_PATIENCE_S = 10.0
_MISSES_MAX = 2
"""In a row: after a pause of the whole machine, what was asked before it is late and well."""


class Actors(Protocol):
    """The actors that are watched."""

    async def names(self) -> Collection[str]:
        """Those that exist."""

    async def ask(self, name: str) -> None:
        """Return when an actor has answered.

        Raises:
            ActorAwayError: it is dead, or being restarted.
        """

    async def end(self, name: str) -> None:
        """End an actor, which is restarted."""


class Keeper:
    """Asks every actor for a sign of life, again and again."""

    def __init__(
        self, actors: Actors, *, period_s: float = _PERIOD_S, patience_s: float = _PATIENCE_S
    ) -> None:
        """Begin with `run`.

        Args:
            actors: those that are watched.
            period_s: between two rounds.
            patience_s: how long an answer may take.
        """
        self._actors = actors
        self._period_s = period_s
        self._patience_s = patience_s
        self._missed: dict[str, int] = {}
        """Answers missed in a row, of those that have answered since they were started."""

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            try:
                await self.round()
            except Exception:
                logger.exception("actors could not be asked whether they live")
            await asyncio.sleep(self._period_s)

    async def round(self) -> None:
        """Ask all of them at once."""
        names = set(await self._actors.names())
        self._missed = {name: missed for name, missed in self._missed.items() if name in names}
        await asyncio.gather(*map(self._look_after, names))

    async def _look_after(self, name: str) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._actors.ask(name)
        except ActorAwayError:
            self._missed.pop(name, None)
        except TimeoutError:
            # Who has never answered may be starting still.
            if name in self._missed:
                await self._miss(name)
        else:
            self._missed[name] = 0

    async def _miss(self, name: str) -> None:
        self._missed[name] += 1
        if self._missed[name] < _MISSES_MAX:
            return
        logger.warning("%s stands still; ending it, so that it is started anew", name)
        del self._missed[name]
        await self._actors.end(name)


class NamespaceActors:
    """All named actors of ours but one, and some of others (an `Actors`)."""

    def __init__(self, *, but: str, also: Mapping[str, str] = MappingProxyType({})) -> None:
        """Watch everybody else.

        Args:
            but: the watcher's own name.
            also: actors of other namespaces that are ours to end, with their namespaces.
        """
        self._but = but
        self._also = dict(also)
        self._handles: dict[str, Any] = {}

    async def names(self) -> Collection[str]:
        """See `Actors`."""
        found = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        names = {actor["name"] for actor in found if actor["namespace"] == NAMESPACE} - {self._but}
        names |= {actor["name"] for actor in found if self._also.get(actor["name"]) == actor["namespace"]}
        self._handles = {name: handle for name, handle in self._handles.items() if name in names}
        return names

    async def ask(self, name: str) -> None:
        """See `Actors`."""
        try:
            if name not in self._handles:
                namespace = self._also.get(name, NAMESPACE)
                self._handles[name] = await asyncio.to_thread(ray.get_actor, name, namespace)
            # Every actor has this method; it runs in the loop in which its work is done.
            await self._handles[name].__ray_ready__.remote()
        except (ray.exceptions.RayError, ValueError) as error:
            self._handles.pop(name, None)
            raise ActorAwayError(f"{type(error).__name__}: {error}") from error

    async def end(self, name: str) -> None:
        """See `Actors`."""
        handle = self._handles.pop(name, None)
        if handle is not None:
            await end_to_restart(handle)
