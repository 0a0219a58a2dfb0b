"""Serves for a long time while the fleet changes, and watches what grows.

    python -m load_tests.soak --minutes 30 --json

A cluster of simulated engines of its own under a part of the load that it can take; decode replicas come and
go all the time, and now and then one is killed. Every few seconds it notes memory, descriptors and threads of
each kind of process, Ray's actors and objects, and the number of series that a router exposes. A row says
where each began and ended after the warm-up, and its slope over that time.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from load_tests.arguments import bounded
from load_tests.chaos.cluster import CONFIG, MODEL, ChaosCluster, ClusterError
from load_tests.chaos.faults import (
    CACHE,
    CONTROLLER,
    DECODE,
    DIRECTORY,
    LEARNER,
    METER,
    PREFILL,
    PROVISIONER,
    ROUTER,
)
from load_tests.chaos.load import Seen, SteadyLoad, judged
from load_tests.client import OK, StreamClient, parse_target
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.record import circumstances

_KINDS = {
    "router": ROUTER,
    "cache": CACHE,
    "prefill": PREFILL,
    "decode": DECODE,
    "directory": DIRECTORY,
    "learner": LEARNER,
    "provisioner": PROVISIONER,
    "energy_meter": METER,
    "serve_controller": CONTROLLER,
    "ingress": "haproxy -",
    "dashboard": "dashboard/dashboard.py",
    "gcs": "gcs_server",
    "raylet": "raylet/raylet",
}
_SAMPLE_S = 5.0
_CHURN_S = 20.0
_KILL_EVERY = 4
"""One of so many changes of the fleet is a killed replica."""
_PROBE_S = 10.0
_PROBE_CLIENTS = 48
_SMALL_TABLES: dict[str, Any] = {
    "decision_log": {"memory_records_max": 200},
    "routing": {
        **CONFIG["routing"],
        "replicas": {"prefix_blocks_per_replica_max": 1024},
        "learning": {"pending_max": 200, "automatic": {"retry_memory_max": 200}},
    },
    "semantic_cache": {
        **CONFIG["semantic_cache"],
        "exact": {"entries_max": 500},
        "semantic": {"enabled": True, "entries_max": 500},
    },
}
"""Full long before the warm-up is over: what grows after it is none of them."""
_WARM_UP = 0.5
"""Part of the time that is left out: tables that are bounded fill first."""

Sample = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak."""
    parser = Parser(prog="python -m load_tests.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=bounded(float, 0.5, 10_000), default=30.0)
    parser.add_argument(
        "--load", type=bounded(float, 0.01, 1.0), default=0.7, help="part of what it can take"
    )
    parser.add_argument(
        "--rate", type=bounded(float, 0.1, 10_000), help="requests per second instead of --load"
    )
    parser.add_argument("--seed", type=bounded(int, 0, 1_000_000), default=0)
    parser.add_argument(
        "--small-tables", action="store_true", help="bounds that are reached within the warm-up"
    )
    parser.add_argument("--samples", type=Path, help="file for every sample, one JSON object a line")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(arguments)
    cluster = ChaosCluster({**CONFIG, **_SMALL_TABLES} if options.small_tables else CONFIG)
    try:
        cluster.start()
        rate_per_s = options.rate or options.load * asyncio.run(_capacity_per_s(cluster.url))
        print(f"soak: {rate_per_s:.1f} requests/s", file=sys.stderr, flush=True)
        seen, samples = _soak(cluster, rate_per_s, options)
    except ClusterError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    finally:
        cluster.stop()
    rows = [_requests_row(seen, rate_per_s, options), *_rows(samples, options.seed)]
    result = {
        "benchmark": "soak",
        "command": spelled("soak", arguments),
        **circumstances(None),
        "rows": rows,
    }
    if options.json:
        print_json(result)
    else:
        print("\n".join(map(str, rows)))
    return 0


async def _capacity_per_s(url: str) -> float:
    """Requests per second that clients get who ask as soon as they are answered."""
    client = StreamClient(parse_target(url), timeout_s=60.0)
    until_s, done = time.monotonic() + _PROBE_S, 0

    async def ask(number: int) -> None:
        nonlocal done
        while time.monotonic() < until_s:
            messages = [{"role": "user", "content": f"probe {number} {done}"}]
            outcome = await client.send(
                {"model": MODEL, "messages": messages, "max_tokens": 40, "stream": True}
            )
            done += outcome.kind == OK

    await asyncio.gather(*(ask(number) for number in range(_PROBE_CLIENTS)))
    client.close()
    return done / _PROBE_S


def _soak(
    cluster: ChaosCluster, rate_per_s: float, options: argparse.Namespace
) -> tuple[list[Seen], list[Sample]]:
    load = SteadyLoad(cluster.url, rate_per_s, options.seed)
    load.start()
    began_s = time.monotonic()
    changed_s, changes, samples = began_s, 0, list[Sample]()
    while time.monotonic() - began_s < options.minutes * 60.0:
        time.sleep(_SAMPLE_S)
        if time.monotonic() - changed_s > _CHURN_S:
            changed_s, changes = time.monotonic(), changes + 1
            _change(cluster, changes)
        samples.append({"at_s": time.monotonic() - began_s, **_sample(cluster)})
        if options.samples is not None:
            with options.samples.open("a", encoding="utf-8") as out:
                out.write(json.dumps(samples[-1]) + "\n")
    return load.stop(), samples


def _change(cluster: ChaosCluster, number: int) -> None:
    if number % _KILL_EVERY == 0:
        for process in cluster.matching(DECODE)[:1]:
            process.kill()
    else:
        cluster.scale("decode", 2 + number % 2)


def _sample(cluster: ChaosCluster) -> Sample:
    found: Sample = defaultdict(float)
    count: Counter[str] = Counter()
    for process in cluster.processes():
        try:
            line = " ".join(process.cmdline())
            kind = next((kind for kind, word in _KINDS.items() if word in line), None)
            if kind is None:
                continue
            count[kind] += 1
            found[f"{kind} rss_bytes"] += process.memory_info().rss
            found[f"{kind} fds"] += process.num_fds()
            found[f"{kind} threads"] += process.num_threads()
        except psutil.Error:
            continue
    # Of the average process of its kind: how many there are changes on purpose.
    mean = {name: value / count[name.split(" ")[0]] for name, value in found.items()}
    return {**mean, **_of_ray(cluster), "router series": float(_series(cluster))}


def _of_ray(cluster: ChaosCluster) -> Sample:
    """Actors that live, and objects that Ray keeps."""
    token = (cluster.state / "ray-token").read_text(encoding="utf-8").strip()
    port = cluster.config["local_cluster"]["dashboard_port"]
    found: Sample = {}
    for name, query in (
        ("actors", "filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"),
        ("objects", ""),
    ):
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{port}/api/v0/{name}?limit=1000&{query}",
                headers={"authorization": f"Bearer {token}"},
                timeout=10,
            )
            answer.raise_for_status()
            found[f"ray {name}"] = float(answer.json()["data"]["result"]["num_filtered"])
        except (httpx.HTTPError, KeyError, TypeError, ValueError):
            continue
    return found


def _series(cluster: ChaosCluster) -> int:
    try:
        return sum(not line.startswith("#") for line in cluster.metrics().splitlines())
    except httpx.HTTPError:
        return 0


def _requests_row(seen: list[Seen], rate_per_s: float, options: argparse.Namespace) -> dict[str, Any]:
    row = {"case": "requests", "policy": "none", "seed": options.seed, "rate_per_s": round(rate_per_s, 1)}
    told = judged(seen, 0.0)
    wanted = ("requests", "failed", "kinds", "p95_ttft_after_s", "longest_gap_s", "longest_request_s")
    return {**row, **{name: told[name] for name in wanted}}


def _rows(samples: list[Sample], seed: int) -> list[dict[str, Any]]:
    """Where everything that was watched began and ended, and how it grew, after the warm-up."""
    kept = samples[int(len(samples) * _WARM_UP) :]
    rows = []
    for name in sorted({name for sample in kept for name in sample} - {"at_s"}):
        points = np.array([(sample["at_s"], sample[name]) for sample in kept if name in sample])
        if len(points) < 3:
            continue
        slope_per_s, _ = np.polyfit(points[:, 0], points[:, 1], 1)
        third = max(1, len(points) // 3)
        unit = "bytes" if name.endswith("bytes") else "count"
        rows.append(
            {
                "case": name,
                "policy": "none",
                "seed": seed,
                f"first_{unit}": round(float(np.median(points[:third, 1])), 1),
                f"last_{unit}": round(float(np.median(points[-third:, 1])), 1),
                f"slope_{unit}_per_h": round(float(slope_per_s) * 3600.0, 1),
                "samples": len(points),
            }
        )
    return rows


if __name__ == "__main__":
    exit_with(main)
