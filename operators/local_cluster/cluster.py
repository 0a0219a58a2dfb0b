"""Starts and stops the Ray head, for `tidemill up` and for tests that need a real cluster."""

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.config.local_cluster import LocalClusterConfig
from operators.local_cluster import processes
from operators.local_cluster.environment import HAPROXY_FOLDER, FreePorts, cluster_environment
from operators.local_cluster.simulated_nodes import autoscaling_environment, write_autoscaling_config

SOURCE_ROOT = Path(__file__).resolve().parents[2]
DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")
"""A folder for each GPU, where NVIDIA's driver is loaded."""
_HOST = "127.0.0.1"
_STARTED = "Ray runtime started"
_HEAD_START_TIMEOUT_S = 180.0
_SERVE_SHUTDOWN_TIMEOUT_S = 30.0
_HEAD_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.1
_RUNTIME_PATH_BYTES_MAX = 25
"""Serve puts a node's id (56 letters) and a file name behind it, and HAProxy takes socket paths up to 97."""
_LOG_LINES_SHOWN = 5


class LocalClusterError(RuntimeError):
    """The cluster could not be started or stopped; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterHandle:
    """What somebody else needs to find this cluster's processes again."""

    cluster_id: str
    runtime_dir: str
    ray_pid: int
    ray_created_at_s: float


def runtime_dir_of(state_dir: Path) -> Path:
    """The short folder for sockets, Ray's session and HAProxy's files that belongs to a state folder."""
    digest = hashlib.sha256(f"{os.getuid()} {state_dir.resolve()}".encode()).hexdigest()[:8]
    name = f"tidemill-{digest}"
    folder = Path(tempfile.gettempdir()) / name
    return folder if len(os.fsencode(folder)) <= _RUNTIME_PATH_BYTES_MAX else Path("/tmp") / name  # noqa: S108 - short on every Linux


def planned_cpus(config: LocalClusterConfig, cores: int) -> int:
    """Cores that Ray plans with: one more than there are, so that router and cache take none from engines."""
    return config.cpus if config.cpus is not None else cores + 1


def head_command(config: LocalClusterConfig, *, runtime_dir: Path, agent_port: int, cores: int) -> list[str]:
    """The `ray start` command for this configuration."""
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        f"--node-ip-address={_HOST}",
        f"--port={config.gcs_port}",
        f"--dashboard-host={_HOST}",
        f"--dashboard-port={config.dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--ray-client-server-port={config.client_port}",
        f"--object-store-memory={config.object_store_bytes}",
        f"--num-cpus={planned_cpus(config, cores)}",
        f"--temp-dir={runtime_dir / 'ray'}",
        "--include-log-monitor=false",
        "--log-color=false",
        "--log-style=record",
    ]
    if not DRIVER_GPUS.exists():
        command.append("--num-gpus=0")
    return command


class LocalCluster:
    """One Ray head and everything that runs below it.

    Attributes:
        address: where drivers connect (`host:port`).
        runtime_dir: Ray's session and logs, HAProxy's files; kept after `stop` for reading, emptied by the
            next start.
        environment: what drivers and other clients of the cluster must have in theirs.
    """

    def __init__(self, config: LocalClusterConfig, *, state_dir: Path, env: Mapping[str, str]) -> None:
        self._config = config
        self._state_dir = state_dir
        self._cores = len(os.sched_getaffinity(0))
        self._cluster_id = secrets.token_hex(8)
        self._ports = FreePorts(
            fallback_http=_free_port(), fallback_grpc=_free_port(), dashboard_agent=_free_port()
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = False
        self._handle: ClusterHandle | None = None
        self.address = f"{_HOST}:{config.gcs_port}"
        self.runtime_dir = runtime_dir_of(state_dir)
        self.head_log = state_dir / "ray-head.log"
        self.environment = cluster_environment(
            config,
            inherited=env,
            cluster_id=self._cluster_id,
            runtime_dir=self.runtime_dir,
            token_path=state_dir / "ray-token",
            source_root=SOURCE_ROOT,
            ports=self._ports,
        )

    @property
    def handle(self) -> ClusterHandle:
        """How to find the processes again; valid after `start` has begun them."""
        if self._handle is None:
            raise LocalClusterError("the cluster has not been started")
        return self._handle

    def start(self) -> None:
        """Start the head; returns when drivers can connect.

        Raises:
            LocalClusterError: it ended, or was not there in time. Nothing of it is left.
        """
        self._state_dir.mkdir(parents=True, exist_ok=True)
        prepare_runtime_dir(self.runtime_dir)
        write_private(self._state_dir / "ray-token", secrets.token_hex(32))
        command = head_command(
            self._config,
            runtime_dir=self.runtime_dir,
            agent_port=self._ports.dashboard_agent,
            cores=self._cores,
        )
        head_environment = self.environment
        if self._config.simulated_nodes:
            path = write_autoscaling_config(
                self._config, self.runtime_dir, cpus=planned_cpus(self._config, self._cores)
            )
            command.append(f"--autoscaling-config={path}")
            head_environment = {**self.environment, **autoscaling_environment()}
        # Noted first: a signal between the process's birth and its assignment must not lose it.
        self._begun = True
        with self.head_log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal must reach us, who stop things in order.
            self._process = subprocess.Popen(
                command,
                env=head_environment,
                cwd=SOURCE_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._handle = ClusterHandle(
            cluster_id=self._cluster_id,
            runtime_dir=str(self.runtime_dir),
            ray_pid=self._process.pid,
            ray_created_at_s=processes.created_at_s(self._process.pid),
        )
        try:
            self._wait_started()
        except BaseException:
            self.kill()
            raise

    def _wait_started(self) -> None:
        deadline_at_s = time.monotonic() + _HEAD_START_TIMEOUT_S
        while True:
            text = self.head_log.read_text(encoding="utf-8", errors="replace")
            if self.is_alive() and _STARTED in text:
                return
            lines = [line for line in text.splitlines() if line.strip()]
            tail = " | ".join(lines[-_LOG_LINES_SHOWN:])
            if not self.is_alive():
                raise LocalClusterError(f"the Ray head ended while starting; {self.head_log} ends: {tail}")
            if time.monotonic() > deadline_at_s:
                raise LocalClusterError(
                    f"the Ray head was not up after {_HEAD_START_TIMEOUT_S:.0f} s; "
                    f"{self.head_log} ends: {tail}"
                )
            time.sleep(_POLL_S)

    def is_alive(self) -> bool:
        """Whether the head process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, progress: Callable[[str], None] = lambda _: None, *, serve: bool = True) -> None:
        """End everything in order: Serve's applications, the head, then whatever is left.

        Args:
            progress: told of every stage.
            serve: whether Serve applications may run.

        Raises:
            LocalClusterError: processes remain that could not be killed.
        """
        if not self._begun:
            return
        # Noted before the first of them ends: afterwards their children have lost their parents.
        earlier = self._found()
        if serve and self.is_alive():
            progress("stopping the Serve applications")
            self._shut_serve_down()
        progress("stopping the Ray head")
        if self._process is not None and self.is_alive():
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_HEAD_STOP_TIMEOUT_S)
        self.kill(earlier)

    def _shut_serve_down(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired), self.head_log.open("ab") as log:
            subprocess.run(
                [sys.executable, "-m", "operators.local_cluster.serve_shutdown", self.address],
                env=self.environment,
                cwd=SOURCE_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_SERVE_SHUTDOWN_TIMEOUT_S,
                check=False,
                start_new_session=True,
            )

    def kill(self, earlier: list[psutil.Process] | None = None) -> None:
        """End everything at once.

        Raises:
            LocalClusterError: processes remain that could not be killed.
        """
        if not self._begun:
            return
        left = processes.kill_all(
            cluster_id=self._cluster_id,
            runtime_dir=self.runtime_dir,
            earlier=self._found() if earlier is None else earlier,
        )
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_HEAD_STOP_TIMEOUT_S)
        self._process = None
        self._begun = False
        (self._state_dir / "ray-token").unlink(missing_ok=True)
        if left:
            raise LocalClusterError(f"processes {left} could not be killed")

    def _found(self) -> list[psutil.Process]:
        roots = [self._process.pid] if self._process is not None else []
        return processes.find_processes(
            cluster_id=self._cluster_id, runtime_dir=self.runtime_dir, roots=roots
        )


def kill_cluster(handle: ClusterHandle) -> list[int]:
    """End a cluster that somebody else started; ids of processes that could not be killed."""
    runtime_dir = Path(handle.runtime_dir)
    roots = [handle.ray_pid] if processes.is_alive(handle.ray_pid, handle.ray_created_at_s) else []
    found = processes.find_processes(cluster_id=handle.cluster_id, runtime_dir=runtime_dir, roots=roots)
    return processes.kill_all(cluster_id=handle.cluster_id, runtime_dir=runtime_dir, earlier=found)


def prepare_runtime_dir(folder: Path) -> None:
    """Make the folder, empty and for this user alone.

    Raises:
        LocalClusterError: somebody else put something there.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise LocalClusterError(f"{folder} exists and is not this user's folder; remove it or set TMPDIR")
    folder.chmod(0o700)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    (folder / HAPROXY_FOLDER).mkdir()


def write_private(path: Path, text: str) -> None:
    """Write a secret that only this user can read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
