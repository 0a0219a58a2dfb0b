"""Replica routing policies side by side, on a trace whose prompts share prefixes.

    python -m load_tests.replica_routing --trace mooncake_conversation.jsonl.gz --replicas 8 --seeds 5 --json

The simulator's engines (batching by iteration, chunked prefill, paged KV cache, prefix cache) serve the trace
behind the routers' own policies. By default a replica computes 9,000 prompt tokens a second when it does
nothing else, a decode step takes 30 ms, and its KV cache holds 1,500 blocks of 512 tokens, running requests
and cached prefixes together. `--heterogeneous` makes the second half of the replicas `--slow-ratio` times
slower, with the same sum. Routers do not see the engines' caches: they know what they sent.

`--fleet FILE` takes the pools of a configuration with one model instead, and then also traces that say
nothing of prefixes; `--set energy_slack_s=0` changes a setting of `routing.replicas`.

A seed draws the instants of arrival within the gaps of the trace, whose times are rounded, and the routers'
chance. The skew is the busiest replica's seconds of prefill by the mean of all.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from cluster.config import ConfigError, TidemillConfig, load_config
from cluster.config.routing import ReplicaPolicyName
from cluster.simulation.experiment import spread
from cluster.simulation.processes import in_turn, worker_processes
from cluster.simulation.traffic.open import open_trace
from cluster.simulation.traffic.trace import Trace, TraceError
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, names_of, print_json, spelled
from load_tests.record import circumstances
from load_tests.routing.fleet import FleetShape, run, with_routing

_POLICIES = cast("tuple[ReplicaPolicyName, ...]", get_args(ReplicaPolicyName))
_SHOWN = ("mean_ttft_s", "p90_ttft_s", "p99_ttft_s", "prefix_hit_ratio", "skew", "energy_j_per_output_token")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    given = _options(arguments)
    try:
        rows = _rows(given)
    except (ConfigError, TraceError, ValueError) as error:
        sys.exit(f"replica_routing: {error}")
    if given.json:
        command = spelled("replica_routing", arguments)
        print_json(
            {"benchmark": "replica_routing", "command": command, **circumstances(given.fleet), "rows": rows}
        )
    else:
        print(_table(rows))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m load_tests.replica_routing", description=__doc__.split("\n")[0])
    shape = FleetShape()
    parser.add_argument(
        "--trace", type=Path, required=True, help="JSON lines in Mooncake's format, gzipped or not"
    )
    parser.add_argument("--fleet", type=Path, help="a configuration with pools to compare on")
    parser.add_argument("--replicas", type=bounded(int, 2, 1000), default=shape.replicas, help="in the fleet")
    parser.add_argument(
        "--rate-scale", type=bounded(float, 1e-3, 1e3), default=1.0, help="times the trace's own rate"
    )
    parser.add_argument("--heterogeneous", action="store_true", help="half of the replicas are slower")
    parser.add_argument("--slow-ratio", type=bounded(float, 1.01, 100), default=2.0, help="how much slower")
    parser.add_argument("--routers", type=bounded(int, 1, 64), default=1, help="they share the traffic")
    parser.add_argument(
        "--snapshot-s",
        type=bounded(float, 0.01, 3600),
        default=0.2,
        help="how often routers hear of each other",
    )
    parser.add_argument(
        "--policies", default="all", help=f"all, or names with commas: {', '.join(_POLICIES)}"
    )
    parser.add_argument("--seeds", type=bounded(int, 1, 1000), default=5, help="runs, from seed 0 on")
    parser.add_argument(
        "--prefill-tokens-per-s",
        type=bounded(float, 1, 1e7),
        default=shape.prefill_tokens_per_s,
        help="of a replica that does nothing else",
    )
    parser.add_argument(
        "--step-s", type=bounded(float, 1e-4, 10), default=shape.step_s, help="seconds of a decode step"
    )
    parser.add_argument(
        "--cached-blocks",
        type=bounded(int, 10, 10_000_000),
        default=shape.cached_blocks,
        help="a replica's KV cache, in the trace's blocks",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=JSON",
        help="another setting of routing.replicas, for example energy_slack_s=0",
    )
    parser.add_argument("--requests-max", type=bounded(int, 1, 50_000_000), help="the trace's first ones")
    parser.add_argument("--jobs", type=bounded(int, 1, 64), default=1, help="processes")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser.parse_args(arguments)


def _rows(given: argparse.Namespace) -> list[dict[str, Any]]:
    names = cast("list[ReplicaPolicyName]", names_of(given.policies, _POLICIES, "policy"))
    trace = open_trace((given.trace,), requests_max=given.requests_max)
    if trace.blocks is None and given.fleet is None:
        raise ValueError(f"{given.trace}: says nothing of shared prefixes (hash_ids)")
    if given.rate_scale != 1.0:
        trace = trace.at_rate(trace.rate_per_s * given.rate_scale)
    settings = dict(_setting(text) for text in given.set)
    fleet = _fleet(given)
    wanted = [
        (with_routing(fleet, name, settings), trace, seed, given.routers, given.snapshot_s)
        for seed in range(given.seeds)
        for name in names
    ]
    case = _case(given, trace)
    began_s = time.monotonic()
    rows: list[dict[str, Any]] = []
    with worker_processes(given.jobs) as processes:
        found = in_turn(processes, _one, wanted) if given.jobs > 1 else map(_one, wanted)
        for (config, _, seed, _, _), figures in zip(wanted, found, strict=True):
            name = config.routing.replicas.policy
            rows.append({"case": case, "policy": name, "seed": seed, **figures})
            print(
                f"[{len(rows)}/{len(wanted)}, {time.monotonic() - began_s:.0f} s] {name} seed {seed}: "
                f"mean TTFT {figures['mean_ttft_s']:.3f} s, hits {figures['prefix_hit_ratio']:.3f}",
                file=sys.stderr,
                flush=True,
            )
    return sorted(rows, key=lambda row: (names.index(row["policy"]), row["seed"]))


def _setting(text: str) -> tuple[str, Any]:
    field, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"--set {text}: expected FIELD=JSON")
    try:
        return field, json.loads(value)
    except ValueError:
        raise ValueError(f"--set {text}: {value!r} is no JSON") from None


def _fleet(given: argparse.Namespace) -> TidemillConfig:
    if given.fleet is not None:
        config = load_config(given.fleet)
        if len(config.models) != 1:
            raise ValueError(f"{given.fleet}: has {len(config.models)} models; a comparison needs one")
        return config
    shape = FleetShape(
        replicas=given.replicas,
        prefill_tokens_per_s=given.prefill_tokens_per_s,
        step_s=given.step_s,
        cached_blocks=given.cached_blocks,
        slow_ratio=given.slow_ratio if given.heterogeneous else 1.0,
    )
    return shape.config()


def _one(wanted: tuple[TidemillConfig, Trace, int, int, float]) -> dict[str, float | int]:
    config, trace, seed, routers, snapshot_s = wanted
    return run(config, trace, seed=seed, routers=routers, snapshot_s=snapshot_s)


def _case(given: argparse.Namespace, trace: Trace) -> str:
    fleet = given.fleet.name if given.fleet is not None else f"{given.replicas} replicas"
    parts = [trace.name, fleet, f"x{given.rate_scale:g}"]
    if given.heterogeneous and given.fleet is None:
        parts.append(f"half {given.slow_ratio:g} times slower")
    if given.routers > 1:
        parts.append(f"{given.routers} routers, snapshots every {given.snapshot_s:g} s")
    return ", ".join([*parts, *given.set])


def _table(rows: list[dict[str, Any]]) -> str:
    """Means with standard deviations over the seeds."""
    by_policy: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], []).append(row)
    lines = [f"{'policy':20}" + "".join(f"{name:>26}" for name in _SHOWN)]
    for policy, runs in by_policy.items():
        cells = [f"{policy:20}"]
        for name in _SHOWN:
            mean, deviation = spread([run[name] for run in runs])
            cells.append(f"{mean:>16.4g} ±{deviation:>8.2g}")
        lines.append("".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
