"""The cluster that is hurt: `tidemill up` in a process of its own, found by its environment."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

_ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 120.0
_CANDIDATES = itertools.count(22000 + os.getpid() % 5000)
_PORTS = ("gcs_port", "dashboard_port", "client_port", "haproxy_metrics_port", "haproxy_stats_port")

MODEL = "simulated-7b"
CONFIG: dict[str, Any] = yaml.safe_load(f"""
models:
  {MODEL}: {{source: simulated}}
  small: {{source: simulated}}
pools:
  prefill:
    model: {MODEL}
    role: prefill
    engine: {{kind: simulated}}
    resources: {{cpus: 0.01}}
    health_timeout_s: 10
  decode:
    model: {MODEL}
    role: decode
    replicas: {{min: 2, max: 4}}
    engine: {{kind: simulated, step_base_s: 0.02}}
    resources: {{cpus: 0.01}}
    drain_timeout_s: 30
    health_timeout_s: 10
  small:
    model: small
    engine: {{kind: simulated}}
    resources: {{cpus: 0.01}}
gateway: {{router_replicas: 2, router_cpus: 0.01}}
routing: {{models: {{policy: linucb}}}}
semantic_cache: {{cpus: 0.01, semantic: {{enabled: true}}}}
local_cluster: {{memory_bytes_min: 1000000000}}
""")


class ClusterError(RuntimeError):
    """The cluster did not do what the suite needs of it; the message says what."""


class ChaosCluster:
    """A running Tidemill that may be hurt."""

    def __init__(self, config: dict[str, Any], *, environment: dict[str, str] | None = None) -> None:
        """Prepare; `start` starts it.

        Args:
            config: without ports, which are chosen here.
            environment: what its processes get beside the caller's.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="tidemill-chaos-"))
        self.config = json.loads(json.dumps(config))
        self.url = give_ports(self.config)
        self.state = self.folder / "state"
        self.models: tuple[str, ...] = (MODEL,)
        """What the load asks for, in turn."""
        self.environment = {**os.environ, **(environment or {}), "TIDEMILL_STATE": str(self.state)}
        self.environment.pop("RAY_ADDRESS", None)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            ClusterError: it did not come up.
        """
        path, log = self.folder / "config.yaml", self.folder / "up.log"
        path.write_text(yaml.safe_dump(self.config), encoding="utf-8")
        with log.open("wb") as out:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "operators.cli.app", "up", "-c", str(path), "--json"],
                cwd=_ROOT,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            if "tidemill is ready" in log.read_text(errors="replace"):
                return
            time.sleep(0.25)
        self.stop()
        raise ClusterError(f"the cluster did not come up:\n{log.read_text(errors='replace')[-2000:]}")

    @property
    def alive(self) -> bool:
        """Whether `tidemill up` still runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop it and everything that it has left."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        for process in self.processes():
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """Every process of this cluster."""
        return processes_of(self.state)

    def matching(self, word: str) -> list[psutil.Process]:
        """Processes whose command line holds a word."""
        found = []
        for process in self.processes():
            try:
                if word in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def scale(self, pool: str, replicas: int) -> None:
        """What the provisioner does: Serve's external scaler."""
        ports = self.config["local_cluster"]
        token = (self.state / "ray-token").read_text(encoding="utf-8").strip()
        url = f"http://127.0.0.1:{ports['dashboard_port']}/api/v1/applications/pool-{pool}/deployments/Decode/scale"
        httpx.post(
            url,
            json={"target_num_replicas": replicas},
            headers={"authorization": f"Bearer {token}"},
            timeout=30,
        ).raise_for_status()

    def fleet(self) -> dict[str, Any]:
        """What one router knows."""
        key = (self.state / "admin-key").read_text(encoding="utf-8").strip()
        answer = httpx.get(f"{self.url}/admin/fleet", headers={"authorization": f"Bearer {key}"}, timeout=10)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def metrics(self) -> str:
        """The metrics of one router."""
        return httpx.get(f"{self.url}/metrics", timeout=10).text


def waited_s(check: Callable[[], bool], *, timeout_s: float) -> float | None:
    """Seconds until a check held; None if it did not in time."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < timeout_s:
        try:
            if check():
                return time.monotonic() - began_s
        except (httpx.HTTPError, psutil.Error, OSError, ValueError, KeyError):
            pass
        time.sleep(0.2)
    return None


def processes_of(state: Path) -> list[psutil.Process]:
    """Every process of the cluster with this state folder, found by its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TIDEMILL_STATE") == str(state):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def give_ports(config: dict[str, Any]) -> str:
    """Write free ports into a configuration; the address of its gateway."""
    gateway_port, *others = free_ports(1 + len(_PORTS))
    config.setdefault("gateway", {})["port"] = gateway_port
    config.setdefault("local_cluster", {}).update(zip(_PORTS, others, strict=True))
    return f"http://127.0.0.1:{gateway_port}"


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, outside the ranges that Ray and Serve hand out themselves; no port twice."""
    found: list[int] = []
    while len(found) < count:
        candidate = next(_CANDIDATES)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
        found.append(candidate)
    return found
