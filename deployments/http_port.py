"""Serves an ASGI application on a free port of its own, inside a process that Ray owns."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Generator
from typing import Any

import uvicorn

_START_TIMEOUT_S = 30.0


class _QuietServer(uvicorn.Server):
    """A uvicorn server that leaves the process's signal handlers alone: they are Ray's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def own_host() -> str:
    """Address on which this process's ports are reached from the rest of the cluster.

    `TIDEMILL_HOST` if it is set (a cluster on one machine sets the loopback address), else the node's.
    """
    host = os.environ.get("TIDEMILL_HOST")
    if host:
        return host
    import ray  # a stand-alone engine has no use for it

    return str(ray.util.get_node_ip_address())


def free_port(host: str) -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class HttpPort:
    """A running HTTP server."""

    def __init__(self, app: Any, *, host: str) -> None:
        # The protocol must be named: asyncio sets TCP_NODELAY only where it is, and 40 ms hang on that.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, 0))
        self._socket.listen(2048)
        self._server = _QuietServer(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                lifespan="on",
                interface="asgi3",  # else a bound method is taken for an application of the old ASGI 2
                timeout_keep_alive=75,
                h11_max_incomplete_event_size=1 << 20,
            )
        )
        self._task: asyncio.Task[None] | None = None
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"

    async def start(self) -> None:
        """Return when connections are accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not self._server.started:
                if self._task.done():
                    await self._task
                    raise RuntimeError(f"the HTTP server on {self.url} ended while starting")
                await asyncio.sleep(0.01)

    @property
    def open_requests(self) -> int:
        """Requests whose answer is not finished."""
        return len(self._server.server_state.tasks)

    async def idle(self, *, timeout_s: float) -> None:
        """Return when no answer is open, or the time is up."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while self.open_requests and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # uvicorn offers nothing to wait for

    async def stop(self, *, grace_s: float) -> None:
        """Refuse new connections, let open requests finish for so long, then cut them off."""
        if self._task is None:
            return
        self._server.should_exit = True
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(grace_s):
                await asyncio.shield(self._task)
        self._server.force_exit = True
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(2.0):
                await self._task
