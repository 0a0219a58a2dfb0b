"""Real clusters for the tests: `tidemill up` in a process of its own, on ports of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from load_tests.chaos.cluster import give_ports, processes_of
from operators.local_cluster.cluster import runtime_dir_of

ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 480
_STOP_TIMEOUT_S = 120


class Cluster:
    """A running Tidemill and what tests ask of it."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.url = give_ports(config)
        self.config = config
        self.path = folder / "config.yaml"
        self.path.write_text(yaml.safe_dump(config))
        self.state = folder / "state"
        self.log = folder / "up.log"
        self.environment = {**os.environ, "TIDEMILL_STATE": str(self.state)}
        self.environment.pop("RAY_ADDRESS", None)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self.tidemill, "up", "-c", str(self.path), "--json"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            text = self.log.read_text(errors="replace")
            if f"tidemill is ready: {self.url}/v1" in text:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.25)
        self.stop()
        pytest.fail(f"the cluster did not come up:\n{self.log.read_text(errors='replace')[-4000:]}")

    @property
    def tidemill(self) -> list[str]:
        return [sys.executable, "-m", "operators.cli.app"]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `tidemill` command against this cluster."""
        return subprocess.run(
            [*self.tidemill, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def stop(self) -> int | None:
        """Ctrl-C, and wait; the exit status."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(_STOP_TIMEOUT_S)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def admin(self) -> dict[str, str]:
        return {"authorization": f"Bearer {(self.state / 'admin-key').read_text().strip()}"}

    def fleet(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/admin/fleet", headers=self.admin, timeout=10)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def replicas(self, role: str | None = None) -> list[dict[str, Any]]:
        return [r for r in self.fleet()["replicas"] if role is None or r["role"] == role]

    def decision(self, decision_id: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/admin/decisions/{decision_id}", headers=self.admin, timeout=10)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def written_decision(self, decision_id: str) -> dict[str, Any]:
        """A decision, once it is where the router that is asked can find it."""
        found: list[dict[str, Any]] = []
        self.wait_for("the record", lambda: found.append(self.decision(decision_id)) or found, 5)
        return found[-1]

    def processes(self) -> list[psutil.Process]:
        return processes_of(self.state)

    def replica_process(self, application: str) -> psutil.Process:
        """The actor process of the (first) replica of an application."""
        for process in self.processes():
            if f"ServeReplica:{application}:" in " ".join(process.cmdline()):
                return process
        raise AssertionError(f"no replica of {application} runs")

    def engine_core(self, application: str) -> psutil.Process:
        """The engine process below a replica's."""
        for child in self.replica_process(application).children(recursive=True):
            if "EngineCore" in " ".join(child.cmdline()):
                return child
        raise AssertionError(f"no engine runs below {application}")

    def wait_for(self, what: str, check: Any, timeout_s: float) -> float:
        """Wait until a check holds; the seconds it took."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < timeout_s:
            try:
                if check():
                    return time.monotonic() - began_s
            except (httpx.HTTPError, AssertionError, KeyError, IndexError):
                pass
            time.sleep(0.2)
        raise AssertionError(f"waited {timeout_s:.0f} s for {what}; log: {self.log.read_text()[-2000:]}")


def running(config: dict[str, Any], folder: Path) -> Iterator[Cluster]:
    """A cluster for as long as a fixture lives; leaves no process behind, which it checks."""
    cluster = Cluster(config, folder)
    cluster.start()
    try:
        yield cluster
    finally:
        status = cluster.stop()
    assert status == 0, cluster.log.read_text(errors="replace")[-3000:]
    left = [f"{p.pid} {' '.join(p.cmdline())[:100]}" for p in cluster.processes() if p.is_running()]
    assert not left, f"left behind: {left}"
    shutil.rmtree(
        runtime_dir_of(cluster.state), ignore_errors=True
    )  # sockets and logs, kept if a test failed


def shipped(name: str) -> dict[str, Any]:
    """A configuration as it is shipped."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text())
    return loaded


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The default cluster: real vLLM engines, one prefill and one decode replica on the CPU."""
    config = shipped("local.yaml")
    config["pools"]["prefill-cpu"]["engine"]["kv_lease_s"] = 15  # a test waits until one has run out
    yield from running(config, tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One prefill and two decode replicas without a model, two routers."""
    config = yaml.safe_load(SIMULATED)
    yield from running(config, tmp_path_factory.mktemp("simulated"))


SIMULATED = """
models:
  simulated-7b: {source: simulated, aliases: [auto]}
pools:
  prefill:
    model: simulated-7b
    role: prefill
    engine: {kind: simulated}
    resources: {cpus: 0.01}
  decode:
    model: simulated-7b
    role: decode
    replicas: {min: 1, max: 4, initial: 2}
    engine: {kind: simulated, step_base_s: 0.02}
    adapters: {slots: 2}
    resources: {cpus: 0.01}
    drain_timeout_s: 30
gateway: {router_replicas: 2, router_cpus: 0.01, queue_timeout_s: 60}
semantic_cache: {cpus: 0.01}
provisioning: {enabled: false}  # the tests scale themselves
local_cluster: {memory_bytes_min: 1000000000}
"""
