"""Tidemill as a Ray job on a cluster that somebody else started, through Ray's own job interface."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from cluster.config import parse_config
from load_tests.chaos.cluster import free_ports
from operators.kubernetes.ray_service import serve_config
from tests.serve.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
_CONFIG = """
models:
  first: {source: simulated, aliases: [auto]}
  second: {source: simulated}
pools:
  a: {model: first, role: combined, engine: {kind: simulated}, resources: {cpus: 0.01}}
  b: {model: second, role: combined, engine: {kind: simulated, step_base_s: 0.005}, resources: {cpus: 0.01}}
gateway: {router_cpus: 0.01}
semantic_cache: {cpus: 0.01}
provisioning: {enabled: false}
"""
_CODE = ("cluster", "deployments", "operators")


class ForeignCluster:
    """A Ray head that knows nothing of Tidemill, and a working directory to submit jobs from."""

    def __init__(self, folder: Path) -> None:
        gcs, self.dashboard, client, agent, self.gateway = free_ports(5)
        self.folder = folder
        self.temp = Path(tempfile.mkdtemp(prefix="tmj-", dir="/tmp"))
        self.state = folder / "state"
        self.working_dir = folder / "checkout"
        for package in _CODE:
            shutil.copytree(
                ROOT / package, self.working_dir / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TIDEMILL_"))
        }
        self.environment.pop("PYTHONPATH", None)
        token = folder / "token"
        token.write_text("0123456789abcdef" * 4)
        self.environment |= {
            # As in an image or an activated environment: `python` is the one that Ray runs in.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            "RAY_worker_register_timeout_seconds": "240",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "TIDEMILL_TEST": str(folder),
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--port={gcs}"]
        command += [f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={client}"]
        command += [f"--dashboard-agent-listen-port={agent}", "--num-cpus=3", "--num-gpus=0"]
        command += [
            f"--temp-dir={self.temp}",
            "--object-store-memory=83886080",
            "--include-log-monitor=false",
        ]
        self._log = (folder / "ray.log").open("wb")
        self._head = subprocess.Popen(
            command, cwd="/", env=self.environment, stdout=self._log, stderr=subprocess.STDOUT
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway}"

    def write(self, config: dict[str, Any]) -> None:
        config["gateway"]["port"] = self.gateway
        (self.working_dir / "cluster.yaml").write_text(yaml.safe_dump(config))

    def submit(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """`ray job submit`; its exit status and the events that the job told."""
        env = json.dumps({"env_vars": {"TIDEMILL_STATE": str(self.state)}})
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", "."]
        command += [f"--address=http://127.0.0.1:{self.dashboard}", f"--runtime-env-json={env}"]
        command += ["--", "python", "-m", "operators", "--json", *arguments]
        done = subprocess.run(
            command,
            cwd=self.working_dir,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"event"')]
        assert lines, done.stdout[-3000:] + done.stderr[-2000:] + self.deploy_log()
        return done.returncode, [json.loads(line) for line in lines]

    def deploy_log(self) -> str:
        log = self.state / "deploy.log"
        return log.read_text()[-3000:] if log.exists() else ""

    def admin_key(self) -> str:
        """The key that the first job made, or one for tests that run without it."""
        path = self.state / "admin-key"
        if not path.exists():
            self.state.mkdir(exist_ok=True)
            path.write_text("a-key-of-the-tests")
        return path.read_text()

    def new_key(self, tenant: str) -> str:
        """An API key."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "operators.cli.app"),
                "keys",
                "create",
                tenant,
                "-c",
                "cluster.yaml",
                "--json",
            ],
            cwd=self.working_dir,
            env={**self.environment, "TIDEMILL_STATE": str(self.state)},
            capture_output=True,
            timeout=60,
            check=True,
        )
        key: str = json.loads(done.stdout)["key"]
        return key

    def replicas(self) -> dict[str, set[str]]:
        """Ids of replicas by pool, as the gateway knows them."""
        key = self.admin_key()
        answer = httpx.get(
            f"{self.url}/admin/fleet", headers={"authorization": f"Bearer {key}"}, timeout=10
        ).json()
        found: dict[str, set[str]] = {}
        for replica in answer["replicas"]:
            found.setdefault(replica["pool"], set()).add(replica["replica_id"])
        return {**found, "gateway": {answer["router"]["id"]}}

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("TIDEMILL_TEST") == str(self.folder)
                if ours or str(self.temp) in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def stop(self) -> None:
        before = self.processes()
        self._head.send_signal(signal.SIGTERM)
        try:
            self._head.wait(30)
        finally:
            for process in {*before, *self.processes()}:
                if process.is_running():
                    process.kill()
            self._head.wait(10)
            self._log.close()
            shutil.rmtree(self.temp, ignore_errors=True)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignCluster]:
    cluster = ForeignCluster(tmp_path_factory.mktemp("job"))
    try:
        deadline_s = time.monotonic() + 90
        while "Ray runtime started" not in (cluster.folder / "ray.log").read_text():
            assert time.monotonic() < deadline_s, (cluster.folder / "ray.log").read_text()
            time.sleep(0.2)
        yield cluster
    finally:
        cluster.stop()


async def _traffic(url: str, stop: asyncio.Event) -> Counter[str]:
    """Streams of both models, four at a time, until told to stop; how they ended."""
    ends: Counter[str] = Counter()

    async def client(model: str) -> None:
        async with httpx.AsyncClient(timeout=100) as http:
            while not stop.is_set():
                body = {"model": model, "prompt": f"{model} {ends.total()}", "max_tokens": 20, "stream": True}
                try:
                    answer = await http.post(f"{url}/v1/completions", json=body)
                except httpx.HTTPError as error:
                    ends[repr(error)] += 1
                    continue
                whole = answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")
                ends["ok" if whole else f"{answer.status_code} {answer.text[-200:]}"] += 1

    await asyncio.gather(*(client(model) for model in ("first", "second") * 2))
    return ends


def test_a_job_brings_it_up_and_another_one_rolls_only_what_changed(foreign: ForeignCluster) -> None:
    config = yaml.safe_load(_CONFIG)
    foreign.write(config)
    status, events = foreign.submit("-c", "cluster.yaml")
    assert status == 0, events
    assert events[-1]["event"] == "ready"
    assert {"pool-a", "pool-b", "gateway"} <= set(events[-1]["changed"])
    before = foreign.replicas()
    assert set(before) == {"a", "b", "gateway"}

    status, events = foreign.submit("-c", "cluster.yaml")
    assert status == 0, events
    assert events[-1]["changed"] == []
    assert foreign.replicas() == before, "nothing changed, so nothing was replaced"

    config["pools"]["b"]["engine"]["step_base_s"] = 0.004
    foreign.write(config)

    async def roll() -> tuple[Any, Counter[str]]:
        stop = asyncio.Event()
        traffic = asyncio.create_task(_traffic(foreign.url, stop))
        submitted = await asyncio.to_thread(foreign.submit, "-c", "cluster.yaml")
        await asyncio.sleep(2.0)
        stop.set()
        return submitted, await traffic

    (status, events), ends = asyncio.run(roll())
    assert status == 0, events
    assert set(events[-1]["changed"]) == {"pool-b", "actor:provisioner"}
    after = foreign.replicas()
    assert after["a"] == before["a"]
    assert after["gateway"] == before["gateway"]
    assert len(after["b"]) == 1
    assert after["b"] != before["b"]
    assert set(ends) == {"ok"}, ends
    assert ends["ok"] > 50


def test_what_it_was_told_wrong_is_said_by_the_job(foreign: ForeignCluster) -> None:
    (foreign.working_dir / "wrong.yaml").write_text("models: {}\n")
    status, events = foreign.submit("-c", "wrong.yaml")
    assert status != 0
    assert events[-1]["event"] == "error"
    assert "models" in events[-1]["message"] + " ".join(events[-1]["details"])


def test_a_job_turns_tenants_on_and_a_limit_holds_over_all_routers(foreign: ForeignCluster) -> None:
    config = yaml.safe_load(_CONFIG)
    config["gateway"]["router_replicas"] = 2
    config["tenants"] = {"enabled": True, "tenants": {"small": {"requests_per_minute": 12}, "large": {}}}
    foreign.write(config)
    status, events = foreign.submit("-c", "cluster.yaml")
    assert status == 0, events
    assert "gateway" in events[-1]["changed"]
    keys = {tenant: foreign.new_key(tenant) for tenant in ("small", "large")}
    body = {"model": "first", "prompt": "hello", "max_tokens": 2, "temperature": 1}

    async def ask(http: httpx.AsyncClient, tenant: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {keys[tenant]}"} if tenant else {}
        return await http.post(f"{foreign.url}/v1/completions", json=body, headers=headers)

    async def all_at_once() -> tuple[httpx.Response, list[httpx.Response], list[httpx.Response]]:
        async with httpx.AsyncClient(timeout=60) as http:
            while (stranger := await ask(http, "")).status_code != 401:  # the router of before goes last
                await asyncio.sleep(0.2)
            known = 0  # routers look for new keys every second, and either may answer
            while known < 20:
                known = known + 1 if (await ask(http, "large")).status_code == 200 else 0
                await asyncio.sleep(0.1)
            small = asyncio.gather(*(ask(http, "small") for _ in range(40)))
            return stranger, await small, await asyncio.gather(*(ask(http, "large") for _ in range(20)))

    stranger, small, large = asyncio.run(asyncio.wait_for(all_at_once(), 90))
    assert stranger.json()["error"]["code"] == "invalid_api_key"
    assert Counter(answer.status_code for answer in small) == {200: 12, 429: 28}
    refused = next(answer for answer in small if answer.status_code == 429)
    assert 0 < int(refused.headers["retry-after"]) <= 65  # a minute, and the slot in which it was used
    assert refused.headers["x-ratelimit-limit-requests"] == "12"
    assert {answer.status_code for answer in large} == {200}


def test_down_leaves_the_cluster_and_nothing_of_ours(foreign: ForeignCluster) -> None:
    status, events = foreign.submit("--down")
    assert status == 0, events
    assert events[-1]["removed"] == ["gateway", "pool-a", "pool-b", "semantic-cache"]
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{foreign.url}/health", timeout=3).raise_for_status()
    left = [
        line
        for process in foreign.processes()
        if (line := " ".join(process.cmdline())).startswith("ray::")
        and any(name in line for name in ("Serve", "Fleet", "Provisioner", "Telemetry"))
    ]
    assert not left


def test_what_a_ray_service_describes_is_served_and_resized(foreign: ForeignCluster) -> None:
    """KubeRay puts the description that is in a RayService to Serve's REST interface; so does this."""
    config = yaml.safe_load(_CONFIG)
    config["gateway"]["port"] = foreign.gateway
    description = serve_config(parse_config(yaml.safe_dump(config)))
    # In a pod these are the container's; this head was started without them.
    environment = {
        "PYTHONPATH": str(foreign.working_dir),
        "TIDEMILL_STATE": str(foreign.state),
        "TIDEMILL_ADMIN_KEY": foreign.admin_key(),
    }
    for application in description["applications"]:
        application["runtime_env"] = {"env_vars": environment}
    dashboard = f"http://127.0.0.1:{foreign.dashboard}"
    token = Path(foreign.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    with httpx.Client(headers={"authorization": f"Bearer {token}"}, timeout=60) as serve:
        serve.put(f"{dashboard}/api/serve/applications/", json=description).raise_for_status()
        body = {"model": "auto", "prompt": "hello", "max_tokens": 4}
        _until(lambda: httpx.post(f"{foreign.url}/v1/completions", json=body, timeout=30).status_code == 200)
        _until(lambda: set(foreign.replicas()) == {"a", "b", "gateway"})
        scale = "api/v1/applications/pool-a/deployments/Combined/scale"
        serve.post(f"{dashboard}/{scale}", json={"target_num_replicas": 2}).raise_for_status()
        _until(lambda: len(foreign.replicas()["a"]) == 2)


def _until(holds: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if holds():
                return
        assert time.monotonic() < deadline_s
        time.sleep(0.5)
