"""A whole cluster without a model: scaling, draining, dying replicas, several routers."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.config import parse_config
from cluster.entities.workload import Surface
from cluster.metrics import fleet, objectives, observability, requests
from cluster.replay import from_json, redecide
from deployments.engine.simulated_requests import answer_words, prompts_of
from tests.adapter_files import write_adapter
from tests.serve.conftest import ROOT
from tests.serve.observability import (
    OF_PLANS,
    assert_only_the_catalogue,
    assert_panels_show,
    targets_of,
    wait_scraped,
)
from tests.serve.prometheus import exposed, needs_prometheus, watching

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]
_MODEL = "simulated-7b"
_LONG = "The tide rises and the wheel turns again near the old mill. " * 40


def _body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": _MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}


def _ask(cluster: Any, text: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{cluster.url}/v1/chat/completions", json=_body(text, **more), timeout=60)


def _said(stream: str) -> str:
    events = [json.loads(line[6:]) for line in stream.split("\n") if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for e in events for choice in e.get("choices", ()))


def _expected(body: dict[str, Any], tokens: int) -> str:
    """What an undisturbed engine answers."""
    (prompt,) = prompts_of(Surface.CHAT, body)
    return " ".join(answer_words(prompt, 0, tokens))


async def _storm(cluster: Any, requests: int, meanwhile: Any, *, tokens: int = 40) -> Counter[str]:
    """Send streams, do something to the cluster when a third are under way, and count how they end."""
    ends: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=32, max_keepalive_connections=32)
    gate = asyncio.Semaphore(32)
    begun = asyncio.Event()

    async def one(client: httpx.AsyncClient, number: int) -> None:
        async with gate:
            if number >= requests // 3:
                begun.set()
            body = _body(f"{number} " + (_LONG if number % 2 else "hello"), stream=True, max_tokens=tokens)
            try:
                async with client.stream("POST", f"{cluster.url}/v1/chat/completions", json=body) as answer:
                    text = (await answer.aread()).decode()
            except httpx.HTTPError as error:
                ends[repr(error)[:80]] += 1
                return
            whole = answer.status_code == 200 and text.endswith("data: [DONE]\n\n")
            whole = whole and text.count('"role"') == 1 and _said(text) == _expected(body, tokens)
            ends["ok" if whole else f"{answer.status_code} {text[-150:]}"] += 1

    async with httpx.AsyncClient(timeout=120, limits=limits) as client:
        tasks = [asyncio.create_task(one(client, number)) for number in range(requests)]
        await begun.wait()
        await asyncio.to_thread(meanwhile)
        await asyncio.gather(*tasks)
    return ends


def _scale(cluster: Any, pool: str, replicas: int) -> None:
    """What the provisioner will do: Serve's external scaler."""
    ports = cluster.config["local_cluster"]
    token = (cluster.state / "ray-token").read_text().strip()
    answer = httpx.post(
        f"http://127.0.0.1:{ports['dashboard_port']}/api/v1/applications/pool-{pool}/deployments/Decode/scale",
        json={"target_num_replicas": replicas},
        headers={"authorization": f"Bearer {token}"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text


def test_short_prompts_are_combined_and_long_ones_disaggregated(simulated: Any) -> None:
    short, long = _ask(simulated, "hello"), _ask(simulated, _LONG)
    assert short.headers["x-tidemill-path"] == "combined"
    assert long.headers["x-tidemill-path"] == "disaggregated"
    assert long.headers["x-tidemill-pool"] == "decode"


def test_a_decision_is_found_whichever_router_took_it(simulated: Any) -> None:
    routing = parse_config(yaml.safe_dump(simulated.config)).routing

    async def ask_at_once() -> list[str]:
        # At once, because the ingress sends each request to the router with the fewest connections.
        async with httpx.AsyncClient(timeout=60) as client:
            asking = [
                client.post(f"{simulated.url}/v1/chat/completions", json=_body(f"{number}"))
                for number in range(24)
            ]
            return [a.headers["x-tidemill-decision-id"] for a in await asyncio.gather(*asking)]

    routers = set()
    for decision_id in asyncio.run(ask_at_once()):
        # One answer of one router: another one finds it only when it is on disk.
        record = from_json(simulated.written_decision(decision_id))
        routers.add(record.router)
        assert redecide(record, routing) == ()
    assert len(routers) == 2


def test_a_cached_answer_is_shared_by_all_routers(simulated: Any) -> None:
    outcomes = [_ask(simulated, "cache me", temperature=0).headers["x-tidemill-cache"] for _ in range(8)]
    assert outcomes == ["miss"] + ["exact"] * 7


@needs_prometheus
def test_prometheus_sees_everything_and_every_panel_has_its_data(simulated: Any, tmp_path: Path) -> None:
    targets = targets_of(
        simulated, {"tidemill-router": 2, "tidemill-cache": 1, "vllm": 3, "ray": 1, "haproxy": 1}
    )
    families = exposed([group for group in targets if group["labels"]["job"] not in ("ray", "haproxy")])
    assert_only_the_catalogue(families)
    expected = {*requests.METRICS, *objectives.METRICS, *fleet.METRICS, *observability.METRICS}
    # Nobody plans for this cluster; where somebody does is in tests/serve/test_provisioner.py.
    assert {metric.name for metric in expected - OF_PLANS} <= set(families)
    assert {"tidemill_cache_lookups_total", "vllm:num_requests_running"} <= set(families)
    with watching(simulated, tmp_path) as prometheus:
        for round_number in range(8):
            answers = [
                _ask(simulated, f"{round_number} {text}", stream=stream, temperature=0)
                for text in ("hello", _LONG)
                for stream in (True, False)
            ]
            answers.append(_ask(simulated, f"{round_number} hello", stream=True, temperature=0))
            assert {answer.status_code for answer in answers} == {200}
            time.sleep(0.5)
        wait_scraped(prometheus, targets)
        showing = assert_panels_show(prometheus)
        rules = prometheus.get("rules")["groups"]
        assert {rule["health"] for group in rules for rule in group["rules"]} == {"ok"}
        (router,) = prometheus.query('count(up{job="tidemill-router"} == 1)')
        assert router["value"][1] == "2"
        assert prometheus.query("ray_node_mem_used")
        assert prometheus.query("haproxy_process_uptime_seconds")
    for panel in (
        "fleet: Replicas there and asked for",
        "fleet: Within objectives",
        "fleet: Sequences running and waiting",
        "fleet: Memory in use",
        "requests: Requests by path",
        "requests: TTFT of all paths",
        "requests: TPOT of all paths",
        "requests: ITL of all paths",
        "cache: Hits among look-ups",
        "provisioner: Arrivals, expected and come",
    ):
        assert panel in showing, f"{panel} is empty; shown: {showing}"


def test_scaling_down_and_up_loses_nothing(simulated: Any) -> None:
    def resize() -> None:
        _scale(simulated, "decode", 1)
        simulated.wait_for("one decode replica", lambda: len(simulated.replicas("decode")) == 1, 60)
        _scale(simulated, "decode", 3)
        simulated.wait_for("three decode replicas", lambda: len(simulated.replicas("decode")) == 3, 60)

    ends = asyncio.run(_storm(simulated, 1000, resize))
    assert ends == {"ok": 1000}


def _roll_out(cluster: Any, application: str) -> None:
    """A new version of one application, as a deployment of another configuration would bring it."""
    order = {
        "config": {**cluster.config, "decision_log": {"memory_records_max": 999}},
        "address": f"127.0.0.1:{cluster.config['local_cluster']['gcs_port']}",
        "state_dir": str(cluster.state),
        "admin_key": (cluster.state / "admin-key").read_text().strip(),
        "application": application,
        "replicas": {
            pool: sum(r["pool"] == pool for r in cluster.replicas()) for pool in cluster.config["pools"]
        },
    }
    # Drivers need what the cluster's own processes have: its token and its ports.
    environment = cluster.replica_process("gateway").environ()
    environment = {name: value for name, value in environment.items() if not name.startswith("RAY_JOB")}
    done = subprocess.run(
        [sys.executable, "-c", _ROLL_OUT],
        input=json.dumps(order),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


_ROLL_OUT = """
import json, sys
from pathlib import Path
from cluster.config import TidemillConfig
from deployments.app import Rollout, deploy
order = json.load(sys.stdin)
config = TidemillConfig.model_validate(order["config"])
name = order["application"]
deploy(
    config,
    cluster_address=order["address"],
    state_dir=Path(order["state_dir"]),
    weights=dict.fromkeys(config.models, "simulated"),
    admin_key=order["admin_key"],
    progress=print,
    rollout=Rollout(applications=frozenset([name]), surging=frozenset([name]), replicas=order["replicas"]),
)
"""


@pytest.mark.parametrize("application", ["pool-decode", "gateway"])
def test_a_rolling_update_loses_nothing(simulated: Any, application: str) -> None:
    def versions() -> set[int]:
        word = f"ServeReplica:{application}:"
        return {p.pid for p in simulated.processes() if word in " ".join(p.cmdline())}

    before = versions()
    ends = asyncio.run(_storm(simulated, 1000, lambda: _roll_out(simulated, application)))
    assert ends == {"ok": 1000}
    simulated.wait_for("the old version to be gone", lambda: not before & versions(), 90)


def test_a_killed_decode_replica_costs_nothing(simulated: Any) -> None:
    _scale(simulated, "decode", 2)
    simulated.wait_for("two decode replicas", lambda: len(simulated.replicas("decode")) == 2, 60)
    before = {r["replica_id"] for r in simulated.replicas("decode")}

    def kill() -> None:
        os.kill(simulated.replica_process("pool-decode").pid, signal.SIGKILL)

    # Streams that had begun go on elsewhere, word for word.
    assert asyncio.run(_storm(simulated, 400, kill)) == {"ok": 400}
    simulated.wait_for(
        "a new replica",
        lambda: (
            len(simulated.replicas("decode")) == 2
            and {r["replica_id"] for r in simulated.replicas("decode")} != before
        ),
        60,
    )


def test_a_killed_prefill_replica_costs_nothing(simulated: Any) -> None:
    def kill() -> None:
        os.kill(simulated.replica_process("pool-prefill").pid, signal.SIGKILL)

    assert asyncio.run(_storm(simulated, 300, kill)) == {"ok": 300}
    simulated.wait_for("a new replica", lambda: simulated.replicas("prefill"), 60)


def test_requests_are_served_while_the_directory_is_away(simulated: Any) -> None:
    directory = next(p for p in simulated.processes() if "ray::FleetDirectory" in " ".join(p.cmdline()))

    def kill() -> None:
        os.kill(directory.pid, signal.SIGKILL)
        time.sleep(3)

    assert asyncio.run(_storm(simulated, 300, kill)) == {"ok": 300}
    simulated.wait_for("the directory to fill again", lambda: len(simulated.replicas()) == 3, 30)


def test_a_killed_cache_costs_nothing(simulated: Any) -> None:
    os.kill(simulated.replica_process("semantic-cache").pid, signal.SIGKILL)
    assert _ask(simulated, "cache gone", temperature=0).status_code == 200
    simulated.wait_for(
        "the cache to come back",
        lambda: _ask(simulated, "cache back", temperature=0).headers["x-tidemill-cache"] == "exact",
        60,
    )


def _adapter(cluster: Any, name: str, text: str = "hello", **more: Any) -> httpx.Response:
    return _ask(cluster, text, model=f"{_MODEL}:{name}", **more)


def test_adapters_are_added_chosen_judged_and_removed_while_it_runs(simulated: Any, tmp_path: Path) -> None:
    for seed, name in enumerate(("law", "code", "sql")):
        added = simulated.run("adapters", "add", name, str(write_adapter(tmp_path / name, seed)), "--json")
        assert added.returncode == 0, added.stdout + added.stderr
        nodes = json.loads(added.stdout)["nodes"]
        assert nodes["reached"] == nodes["known"] >= 2
    for number in range(12):
        answer = _adapter(simulated, ("law", "code", "sql")[number % 3], f"{number}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == f"{_MODEL}:{answer.headers['x-tidemill-adapter']}"
    for number in range(8):
        answer = _adapter(simulated, "auto", f"Which one is best for {number}?")
        assert answer.headers["x-tidemill-adapter"] in {"law", "code", "sql"}
        decision_id = answer.headers["x-tidemill-decision-id"]
        simulated.written_decision(decision_id)
        judged = httpx.post(
            f"{simulated.url}/v1/feedback", json={"decision_id": decision_id, "reward": 1}, timeout=10
        )
        assert judged.json()["status"] == "counted", judged.text
    explained = simulated.run("explain", decision_id)
    assert "price of the page-in" in explained.stdout, explained.stdout + explained.stderr
    removed = simulated.run("adapters", "remove", "sql")
    assert removed.returncode == 0, removed.stderr
    simulated.wait_for("both routers to hear", lambda: _gone_everywhere(simulated, "sql"), 5)
    assert "law" in simulated.run("status").stdout


def _gone_everywhere(cluster: Any, name: str) -> bool:
    return all(_adapter(cluster, name).status_code == 404 for _ in range(6))


def test_nothing_acknowledged_is_lost_when_the_coordinator_of_adapters_is_killed(
    simulated: Any, tmp_path: Path
) -> None:
    coordinator = next(p for p in simulated.processes() if "ray::AdapterCoordinator" in " ".join(p.cmdline()))
    added = simulated.run("adapters", "add", "late", str(write_adapter(tmp_path / "late", 9)), "--pin")
    assert added.returncode == 0, added.stdout + added.stderr

    def kill() -> None:
        os.kill(coordinator.pid, signal.SIGKILL)
        for number in range(10):
            assert _adapter(simulated, "late", f"meanwhile {number}").status_code == 200
            assert _adapter(simulated, "auto", f"meanwhile {number}").status_code == 200

    assert asyncio.run(_storm(simulated, 300, kill)) == {"ok": 300}

    def back() -> bool:
        tried = simulated.run("adapters", "unpin", "late", "--json")
        return tried.returncode == 0 and json.loads(tried.stdout)["adapter"]["pinned"] is False

    simulated.wait_for("the coordinator to come back", back, 60)
    listed = json.loads(simulated.run("adapters", "list", "--json").stdout)
    assert [entry["name"] for entry in listed["data"]] == ["code", "late", "law"]
    assert _adapter(simulated, "late", "again").status_code == 200


def test_the_command_line_speaks_of_the_running_cluster(simulated: Any) -> None:
    status = simulated.run("status", "--json")
    assert status.returncode == 0, status.stderr
    assert {r["role"] for r in json.loads(status.stdout)["replicas"]} == {"prefill", "decode"}
    decision_id = _ask(simulated, _LONG + " explain").headers["x-tidemill-decision-id"]
    simulated.wait_for("the record", lambda: simulated.decision(decision_id), 5)
    explained = simulated.run("explain", decision_id)
    assert explained.returncode == 0, explained.stderr
    assert "disaggregated" in explained.stdout


def test_a_second_cluster_on_the_same_ports_is_refused_in_words(simulated: Any) -> None:
    other = simulated.run("up", "-c", str(simulated.path))
    assert other.returncode != 0
    assert "already running" in other.stdout + other.stderr
