"""What would go wrong, found before anything is started and said with its remedy.

Facts are observed in one function and judged in another, so that every judgement can be tried without the
machine being in that state.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cluster.config import TidemillConfig
from operators.local_cluster.cluster import DRIVER_GPUS, planned_cpus, runtime_dir_of

_GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The state of this machine, as far as starting depends on it."""

    ports_taken: dict[int, str] = field(default_factory=dict)
    """Who holds a wanted port: a process in words, or why the port cannot be had."""
    memory_available_bytes: int
    cores: int
    gpus: int = 0
    unwritable: tuple[Path, ...] = ()
    """Folders that are needed and cannot be written to."""
    running_pid: int | None = None
    """Process of a Tidemill cluster with the same state folder that still runs."""


def wanted_ports(config: TidemillConfig) -> dict[str, int]:
    """Every fixed port, by the configuration field that sets it."""
    local = config.local_cluster
    ports = {
        "gateway.port": config.gateway.port,
        "local_cluster.gcs_port": local.gcs_port,
        "local_cluster.dashboard_port": local.dashboard_port,
        "local_cluster.client_port": local.client_port,
    }
    if local.haproxy:
        ports["local_cluster.haproxy_metrics_port"] = local.haproxy_metrics_port
        ports["local_cluster.haproxy_stats_port"] = local.haproxy_stats_port
    return ports


def observe_facts(
    config: TidemillConfig, *, state_dir: Path, folders: Iterable[Path], running_pid: int | None
) -> Facts:
    """Look at the machine."""
    places = (state_dir, runtime_dir_of(state_dir).parent, *folders)
    return Facts(
        ports_taken={
            port: holder
            for port in wanted_ports(config).values()
            if (holder := port_holder(port)) is not None
        },
        memory_available_bytes=memory_available_bytes(),
        cores=len(os.sched_getaffinity(0)),
        gpus=sum(1 for _ in DRIVER_GPUS.iterdir()) if DRIVER_GPUS.is_dir() else 0,
        unwritable=tuple(place for place in places if not _is_writable(place)),
        running_pid=running_pid,
    )


def problems(config: TidemillConfig, facts: Facts) -> list[str]:
    """What stands in the way, each with a remedy; empty if nothing does."""
    if facts.running_pid is not None:
        # Its ports are taken and its memory is used: saying so as well would only distract.
        return [f"already running (process {facts.running_pid}); `tidemill down` stops it"]
    local = config.local_cluster
    ports = wanted_ports(config)
    found = [
        f"port {port} is taken by {facts.ports_taken[port]}; stop that, or set {name} to a free port"
        for name, port in ports.items()
        if port in facts.ports_taken
    ]
    for name, port in ports.items():
        twins = [other for other, value in ports.items() if value == port and other > name]
        found += [f"{name} and {twin} are both {port}; give one another port" for twin in twins]
    if facts.memory_available_bytes < local.memory_bytes_min:
        found.append(
            f"{facts.memory_available_bytes / _GIB:.1f} GiB of memory are free and "
            f"{local.memory_bytes_min / _GIB:.1f} GiB are needed; close something, "
            "use fewer or smaller pools, or lower local_cluster.memory_bytes_min"
        )
    cpus = planned_cpus(local, facts.cores)
    needed = needed_cpus(config)
    if needed > cpus:
        found.append(
            f"the replicas need {needed:g} cores and Ray would plan with {cpus}; "
            "lower pools.*.resources.cpus or raise local_cluster.cpus"
        )
    gpus = sum(pool.replicas.start * pool.resources.gpus for pool in config.pools.values())
    if gpus > facts.gpus and not local.simulated_nodes:
        found.append(
            f"the replicas need {gpus:g} GPUs and this machine has {facts.gpus}; lower "
            "pools.*.replicas.min or pools.*.resources.gpus, or take a configuration for CPUs, such as "
            "configs/local.yaml"
        )
    found += [
        f"{folder} cannot be written to; change its permissions or choose another"
        for folder in facts.unwritable
    ]
    return found


def needed_cpus(config: TidemillConfig) -> float:
    """Cores that everything a fresh cluster starts asks Ray for."""
    pools = sum(pool.replicas.start * pool.resources.cpus for pool in config.pools.values())
    router = config.gateway.router_replicas * config.gateway.router_cpus
    return pools + router + (config.semantic_cache.cpus if config.semantic_cache.enabled else 0.0)


def port_holder(port: int) -> str | None:
    """Who listens on a port, in words; None if it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EACCES:
                return "the system (ports below 1024 need privileges)"
            return _listener(port) or "another process"
    return None


def _listener(port: int) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr:
                continue
            if connection.laddr.port == port and connection.pid is not None:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return None


def memory_available_bytes() -> int:
    """Memory that can be had without swapping, within the container's limit if there is one."""
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            used = int((group / "memory.current").read_text())
            stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            available = min(available, int(limit) - used + int(stats.get("inactive_file", 0)))
    return available


def _is_writable(folder: Path) -> bool:
    """Whether a folder can be written to, or made where the nearest existing parent can."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
