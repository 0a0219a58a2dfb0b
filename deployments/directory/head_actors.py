"""Named actors on the head node: how all of them are created, and how others reach them.

On the head, because their files are there and because anywhere else they would keep a node awake that the
fleet wants to let go. Ray restarts them for ever; whoever calls them finds the new one by its name.
"""

import asyncio
import contextlib
from typing import Any

import ray

NAMESPACE = "tidemill"
_START_TIMEOUT_S = 120.0


class ActorAwayError(Exception):
    """The actor does not answer now."""


def start_on_head(
    kind: type[Any],
    *args: Any,
    name: str,
    max_concurrency: int,
    wait_for: str | None = None,
    replace: bool = True,
) -> None:
    """Create an actor under a name.

    Args:
        kind: class of the actor's body.
        args: for its constructor.
        name: unique in the cluster.
        max_concurrency: calls that it works on at a time.
        wait_for: method without arguments that is waited for: an actor whose creation is pending dies with
            the driver that asked for it, detached or not. None waits for nothing.
        replace: whether a running one is put aside for this one, or left as it is.
    """
    if replace:
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name, NAMESPACE), no_restart=True)
    started = (
        ray.remote(kind)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=not replace,
            num_cpus=0,
            resources={"node:__internal_head__": 0.001},
            max_restarts=-1,
            max_concurrency=max_concurrency,
            # They are called dozens of times a second, for ever; Ray's control store would note each call.
            enable_task_events=False,
        )
        .remote(*args)
    )
    if wait_for is not None:
        ray.get(getattr(started, wait_for).remote(), timeout=_START_TIMEOUT_S)


async def end_to_restart(handle: Any) -> None:
    """End an actor that stands still; Ray starts it anew."""
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        await asyncio.to_thread(ray.kill, handle, no_restart=False)


class NamedActor:
    """One process's connection to an actor; survives the actor's restart."""

    def __init__(self, name: str, *, timeout_s: float) -> None:
        """Connect with the first call.

        Args:
            name: of the actor.
            timeout_s: of every call: those of an actor that Ray cannot restart for now wait without an error.
        """
        self._name = name
        self._timeout_s = timeout_s
        self._handle: Any = None

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method.

        Raises:
            ActorAwayError: nobody answered.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._handle is None:
                    self._handle = await asyncio.to_thread(ray.get_actor, self._name, NAMESPACE)
                return await getattr(self._handle, method).remote(*arguments)
        except (ray.exceptions.RayError, ValueError, TimeoutError) as error:
            self._handle = None
            raise ActorAwayError(f"{type(error).__name__}: {error}") from error
