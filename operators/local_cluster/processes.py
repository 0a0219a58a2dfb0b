"""Finds the processes of one cluster and ends them; never anybody else's.

A process is ours if it descends from one that we started, carries the cluster's mark in its environment, or
names the cluster's own folder on its command line. One sign alone is not enough to find all of them: Ray
puts some into process groups of their own, some overwrite their environment, and HAProxy outlives its parent.
"""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from operators.local_cluster.environment import CLUSTER_ID_VARIABLE

_KILL_ROUNDS_MAX = 20
_ROUND_S = 0.25
_NAMES = ("haproxy", "raylet", "gcs_server", "python", "ray")
"""What processes are called that name the cluster's folder on their command line."""


def is_alive(pid: int, created_at_s: float) -> bool:
    """Whether the process that had this id when it was noted still runs."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created_at_s) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def created_at_s(pid: int) -> float:
    """Start of a process as wall-clock time; tells it from a later one with the same id."""
    return psutil.Process(pid).create_time()


def find_processes(*, cluster_id: str, runtime_dir: Path, roots: Iterable[int] = ()) -> list[psutil.Process]:
    """Every living process of the cluster, the calling one and its ancestors excepted.

    Args:
        cluster_id: the mark in the environment.
        runtime_dir: the folder that only this cluster's processes name.
        roots: ids of processes that we started ourselves and know to be alive.
    """
    found: dict[int, psutil.Process] = {}
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    known_roots = set(roots)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.pid in known_roots or _is_marked(process, cluster_id, runtime_dir):
                found[process.pid] = process
    for process in list(found.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update({child.pid: child for child in process.children(recursive=True)})
    return [process for pid, process in found.items() if pid not in spared and _runs(process)]


def _is_marked(process: psutil.Process, cluster_id: str, runtime_dir: Path) -> bool:
    folder = f"{runtime_dir}/"
    # By name as well: somebody may be reading one of the logs in there.
    if process.name().startswith(_NAMES) and any(folder in argument for argument in process.cmdline()):
        return True
    with contextlib.suppress(psutil.AccessDenied):
        return process.environ().get(CLUSTER_ID_VARIABLE) == cluster_id
    return False


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait for processes to end; what is left of them after the time."""
    deadline_at_s = time.monotonic() + timeout_s
    left = [process for process in processes if _runs(process)]
    while left and time.monotonic() < deadline_at_s:
        time.sleep(0.1)
        left = [process for process in left if _runs(process)]
    return left


def kill_all(*, cluster_id: str, runtime_dir: Path, earlier: Iterable[psutil.Process] = ()) -> list[int]:
    """Kill whatever is left of a cluster, looking again until nothing new appears.

    Args:
        cluster_id: the mark in the environment.
        runtime_dir: the folder that only this cluster's processes name.
        earlier: processes found before the orderly stop, whose parents may be gone by now.

    Returns:
        Ids of processes that could not be killed; empty is the rule.
    """
    known = {process.pid: process for process in earlier if process.is_running()}
    for _ in range(_KILL_ROUNDS_MAX):
        fresh = find_processes(cluster_id=cluster_id, runtime_dir=runtime_dir)
        known.update({process.pid: process for process in fresh})
        left = [process for process in known.values() if _runs(process)]
        if not left:
            return []
        for process in left:
            # psutil compares the start time first, so a reused id is never hit.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()
        wait_gone(left, _ROUND_S)
    return [process.pid for process in known.values() if _runs(process)]
