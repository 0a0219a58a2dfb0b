"""Everything that is measured side by side: one cluster, one engine, and every gateway before it."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil

from cluster.config import TidemillConfig, load_config
from deployments.http_port import free_port
from load_tests.bench import (
    BenchError,
    cluster,
    cluster_environment,
    engine_url,
    run_module,
    tidemill_command,
    wait_for_answer,
)
from load_tests.client import Target, parse_target
from load_tests.peers.gateways import GATEWAYS, Gateway, PeerError

OWN = {"tidemill": False, "tidemill-cache-miss": True}
"""Tidemill's gateway, and whether its requests are such that the semantic cache is asked (and misses)."""
PIPELINES = {"ray-serve": "/handles", "ray-serve-optimised": "/handles-optimised"}
PEERS = (*OWN, *PIPELINES, *(gateway.name for gateway in GATEWAYS))
ENGINE = "engine"
_HOST = "127.0.0.1"
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0
_DEPLOY_TIMEOUT_S = 180.0


class SiteError(RuntimeError):
    """What was to be measured could not be started."""


@dataclass(slots=True)
class Site:
    """Where everything listens."""

    model: str
    targets: dict[str, Target] = field(default_factory=dict)
    """The engine itself first."""
    api_keys: dict[str, str] = field(default_factory=dict)
    asks_the_cache: set[str] = field(default_factory=set)
    absent: dict[str, str] = field(default_factory=dict)
    """What was asked for and is not measured, and why."""


@contextlib.asynccontextmanager
async def measured_site(config_path: Path, peers: Sequence[str], *, install: bool) -> AsyncIterator[Site]:
    """Start what is to be measured; everything is stopped again.

    Args:
        config_path: of the cluster.
        peers: names out of `PEERS`.
        install: whether to install gateways that are missing.

    Raises:
        SiteError: the cluster or the engine did not start.
    """
    config = load_config(config_path)
    site = Site(model=config.default_model)
    wanted = _installed([gateway for gateway in GATEWAYS if gateway.name in peers], site, install=install)
    admin_key = secrets.token_urlsafe(24)
    base = f"http://{config.gateway.host}:{config.gateway.port}"
    started_s = config.local_cluster.start_timeout_s
    try:
        async with contextlib.AsyncExitStack() as stack:
            process = await stack.enter_async_context(
                cluster(config_path, admin_key=admin_key, start_timeout_s=started_s)
            )
            engine = await engine_url(base, admin_key)
            site.targets[ENGINE] = parse_target(engine)
            key = await _api_key(config, config_path, process.pid)
            for name, asks_the_cache in OWN.items():
                if name in peers:
                    site.targets[name] = parse_target(base)
                    site.api_keys |= {name: key} if key else {}
                    site.asks_the_cache |= {name} if asks_the_cache else set()
            await wait_for_answer(base, site.model, api_key=key)
            if any(name in peers for name in PIPELINES):
                deploy = ("load_tests.handles.deploy", "--config", str(config_path))
                environment = cluster_environment(process)
                await run_module(*deploy, environment=environment, timeout_s=_DEPLOY_TIMEOUT_S)
            for name, prefix in PIPELINES.items():
                if name in peers:
                    await wait_for_answer(base + prefix, site.model)
                    site.targets[name] = parse_target(base + prefix)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-peers-")))
            for gateway in wanted:
                await _add(gateway, engine, site, folder, stack)
            yield site
    except (BenchError, aiohttp.ClientError) as error:
        raise SiteError(str(error)) from error


def _installed(gateways: Sequence[Gateway], site: Site, *, install: bool) -> list[Gateway]:
    found = []
    for gateway in gateways:
        try:
            if install:
                gateway.install()
        except PeerError as error:
            site.absent[gateway.name] = str(error)
            continue
        if gateway.program_path.exists():
            found.append(gateway)
        else:
            site.absent[gateway.name] = f"{gateway.package} is not installed; --install does it"
    return found


async def _api_key(config: TidemillConfig, config_path: Path, pid: int) -> str | None:
    """A key of the first tenant; None where nobody is asked for one.

    Raises:
        BenchError: it could not be made.
    """
    if not config.tenants.enabled:
        return None
    tenant = next(iter(config.tenants.tenants))
    process = await asyncio.create_subprocess_exec(
        *(*tidemill_command(), "keys", "create", tenant, "-c", str(config_path), "--json"),
        stdout=asyncio.subprocess.PIPE,
        env=psutil.Process(pid).environ(),
    )
    printed, _ = await process.communicate()
    if process.returncode != 0:
        raise BenchError("`tidemill keys create` failed")
    return str(orjson.loads(printed)["key"])


async def _add(
    gateway: Gateway, engine: str, site: Site, folder: Path, stack: contextlib.AsyncExitStack
) -> None:
    """Start a gateway and wait until it answers; one that does not is left out."""
    port = free_port(_HOST)
    start = gateway.prepared([engine], model=site.model, port=port, folder=folder)
    log = stack.enter_context((folder / f"{gateway.name}.log").open("wb"))
    process = await asyncio.create_subprocess_exec(
        *start.command,
        env={**os.environ, **start.environment},
        cwd=folder,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    stack.push_async_callback(_stop, process)
    base = f"http://{_HOST}:{port}"
    try:
        waiting = wait_for_answer(base, site.model, api_key=start.api_key, timeout_s=_START_TIMEOUT_S)
        await _unless_it_ends(process, waiting)
    except BenchError as error:
        said = (folder / f"{gateway.name}.log").read_text("utf-8", "replace")[-2000:]
        print(f"{gateway.name}: {error}\n{said}", file=sys.stderr)
        site.absent[gateway.name] = str(error)
        return
    site.targets[gateway.name] = parse_target(base)
    site.api_keys |= {gateway.name: start.api_key} if start.api_key else {}


async def _unless_it_ends(process: asyncio.subprocess.Process, waiting: Coroutine[Any, Any, None]) -> None:
    """Wait, but no longer than the process lives.

    Raises:
        BenchError: it ended, or what was waited for did not come.
    """
    task, ended = asyncio.create_task(waiting), asyncio.create_task(process.wait())
    await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if not task.done():
        task.cancel()
        raise BenchError(f"it ended with status {process.returncode}")
    await task


async def _stop(process: asyncio.subprocess.Process) -> None:
    for what in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                os.killpg(process.pid, what)
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await process.wait()
