"""The provisioner on a real cluster: nodes join and leave, replicas with them, and no request is lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from cluster.replay.provisioning import record_of, redecide_log
from tests.serve.conftest import ROOT, running
from tests.serve.observability import OF_PLANS

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]
_MODEL = "simulated-7b"
_CLIENTS = 30
_REQUESTS = 1000
"""In flight over the whole cycle, at least."""
_LOAD_S = 120.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = yaml.safe_load((ROOT / "configs" / "simulated-heterogeneous.yaml").read_text())
    # The fastest kind is sold out; patience is shorter than a cloud would need.
    config["local_cluster"]["simulated_nodes"]["h100-node"]["max"] = 0
    # Few seats and slow engines: a few clients need all of them, whatever else this machine has to do.
    config["models"][_MODEL]["slo"] = {"ttft_s": 5.0, "tpot_s": 0.4}
    for name, seats, step_s in (("h100", 8, 0.15), ("a100", 5, 0.18), ("edge", 2, 0.25)):
        config["pools"][name]["max_concurrent_requests"] = seats
        config["pools"][name]["engine"] |= {"step_base_s": step_s, "step_per_sequence_s": 0.0005}
    # One kind is found by a label, in place of a resource.
    config["local_cluster"]["simulated_nodes"]["a100-node"] |= {"labels": {"tidemill/gpu": "A100"}}
    config["pools"]["a100"]["resources"] |= {"node_labels": {"tidemill/gpu": "A100"}}
    config["local_cluster"]["memory_bytes_min"] = 1_000_000_000
    config["provisioning"]["damping"] |= {"unplaceable_after_s": 30}
    yield from running(config, tmp_path_factory.mktemp("heterogeneous"))


async def _clients(cluster: Any, ends: Counter[str], meanwhile: Any) -> None:
    """Load for so long and so many requests, whatever this machine has to do beside it."""
    began_s = time.monotonic()
    done = threading.Event()
    limits = httpx.Limits(max_connections=_CLIENTS)

    async def one(client: httpx.AsyncClient, name: int) -> None:
        number = 0
        while not done.is_set():
            number += 1
            body = {
                "model": _MODEL,
                "prompt": f"{name} {number} " + "tide " * 60,
                "max_tokens": 8,
                "stream": True,
            }
            try:
                answer = await client.post(f"{cluster.url}/v1/completions", json=body)
            except httpx.HTTPError as error:
                ends[repr(error)[:80]] += 1
                continue
            whole = answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")
            ends[f"ok {answer.headers.get('x-tidemill-pool')}" if whole else f"{answer.status_code}"] += 1

    async with httpx.AsyncClient(timeout=120, limits=limits) as client:
        tasks = [asyncio.create_task(one(client, name)) for name in range(_CLIENTS)]
        watching = asyncio.create_task(asyncio.to_thread(meanwhile, done))
        while time.monotonic() - began_s < _LOAD_S or ends.total() < _REQUESTS:
            await asyncio.sleep(0.5)
            if time.monotonic() - began_s > 2.0 * _LOAD_S:
                break
        done.set()
        await asyncio.gather(*tasks)
        await watching


def _provisioner(cluster: Any) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline", "environ"]):
        command = " ".join(process.info["cmdline"] or ())
        if command.startswith("ray::Provisioner") and str(cluster.state) in str(process.info["environ"]):
            return process
    return None


_NODES = """
import sys, time
from ray.autoscaler.v2.sdk import get_cluster_status
while True:
    try:
        status = get_cluster_status(sys.argv[1])
        demands = status.resource_demands.cluster_constraint_demand
        bundles = [one for demand in demands for one in demand.bundles_by_count]
        asked = sum(one.count for one in bundles if "a100" in one.bundle)
        nodes = [node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)]
        print(asked, nodes.count("a100-node"), flush=True)
    except Exception as error:
        print(repr(error)[:200], flush=True)
    time.sleep(0.5)
"""


def _nodes(cluster: Any, said: Path) -> "subprocess.Popen[bytes]":
    """A process that says every half second how many nodes of the second kind are asked for and are there."""
    address = f"127.0.0.1:{cluster.config['local_cluster']['gcs_port']}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.state / "ray-token")}
    with said.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-c", _NODES, address],
            env=os.environ | token,
            stdout=out,
            stderr=subprocess.DEVNULL,
        )


def _wait(cluster: Any, holds: Any, what: str, timeout_s: float) -> dict[str, Any]:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        found = cluster.fleet()
        if found["provisioner"] is not None and holds(found):
            return found
        time.sleep(1.0)
    pytest.fail(f"{what}: {cluster.fleet()['provisioner']}")


def test_the_fleet_breathes_with_the_load_and_loses_nothing(fleet: Any, tmp_path: Path) -> None:
    _wait(fleet, lambda found: len(found["replicas"]) == 1, "one edge replica to begin with", 60)
    seen: dict[str, set[str]] = {}
    ends: Counter[str] = Counter()

    def watch(done: threading.Event) -> None:
        began_s, killed = time.monotonic(), False
        while not done.is_set():
            for replica in fleet.fleet()["replicas"]:
                seen.setdefault(replica["pool"], set()).add(replica["node_id"])
            if not killed and time.monotonic() > began_s + _LOAD_S - 40:
                process = _provisioner(fleet)
                assert process is not None
                os.kill(process.pid, signal.SIGKILL)
                killed = True
            time.sleep(1.0)

    said = tmp_path / "nodes.log"
    nodes = _nodes(fleet, said)
    asyncio.run(_clients(fleet, ends, watch))
    assert ends.total() >= _REQUESTS
    assert {end for end in ends if not end.startswith("ok ")} == set(), ends
    assert len(seen["a100"]) == 2, "two nodes of the second kind joined"
    assert ends["ok a100"] > ends["ok edge"], "and did most of the work"
    assert "h100" not in seen, "the kind that is sold out never came"

    quiet = _wait(
        fleet,
        lambda found: {replica["pool"] for replica in found["replicas"]} == {"edge"},
        "the second kind leaves again",
        120,
    )
    fleet.wait_for("idle nodes to leave", lambda: said.read_text().splitlines()[-4:] == ["0 0"] * 4, 90)
    nodes.kill()
    nodes.wait()
    lines = said.read_text().splitlines()
    assert {"1 0", "2 0", "2 1"} & set(lines), f"nodes were asked for before they were there: {set(lines)}"
    assert "0 2" in lines, "the request was taken back as soon as they served"
    assert {target["pool"]: target["replicas"] for target in quiet["provisioner"]["plan"]["pools"]} == {
        "a100": 0,
        "edge": 1,
        "h100": 0,
    }


def test_its_decisions_are_taken_again_equally_after_it_was_killed(fleet: Any) -> None:
    log = fleet.state / "provisioning" / "decisions.jsonl"
    with log.open(encoding="utf-8") as lines:
        again = list(redecide_log(lines))
    assert len(again) > 30
    assert [entry.difference for entry in again if entry.difference] == []
    assert log.read_text().count('"tidemill_provisioning"') >= 2, "its second life wrote a header of its own"


def test_what_cannot_be_placed_is_said(fleet: Any) -> None:
    said = Counter()
    for line in (fleet.state / "provisioning" / "decisions.jsonl").read_text().splitlines():
        data = json.loads(line)
        if "snapshot" not in data:
            continue
        for target in record_of(data).decided.plan.pools:
            said.update((target.pool, reason.value) for reason in target.reasons)
    assert said["h100", "unplaceable"] > 0, said


def test_status_shows_the_plan_and_energy_is_charged(fleet: Any) -> None:
    fleet.wait_for("a plan in the status", lambda: "wanted" in fleet.run("status").stdout, 30)
    body = {"model": _MODEL, "prompt": "hello", "max_tokens": 30}
    answer = httpx.post(
        f"{fleet.url}/v1/completions", json=body, headers={"x-tidemill-debug": "1"}, timeout=30
    ).json()
    assert answer["usage"]["energy_source"] == "modelled"
    assert answer["usage"]["energy_j"] > 0
    wanted = [
        'tidemill_energy_joules_total{pool="edge",source="modelled"}',
        'tidemill_tenant_energy_joules_total{source="modelled",tenant="anonymous"}',
        *(f"# TYPE {metric.name} " for metric in OF_PLANS),
    ]

    def missing() -> list[str]:
        shown = httpx.get(f"{fleet.url}/metrics", timeout=10).text
        return [series for series in wanted if series not in shown]

    fleet.wait_for("energy and plan in the metrics", lambda: not missing(), 20)
