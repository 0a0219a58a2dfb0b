"""Tidemill's router against pipelines of Ray Serve handles: same machine, ingress and engines, in turns.

The handles run as Serve does by default (`handles`, tokens as Ray objects) and optimised for throughput
(`handles_optimised`, tokens over gRPC). Throughput is measured in rounds, router, handles, router, so that a
machine that gets slower gets slower for all; what is reported is the ratio within a round. Latency is one
request at a time to the engine itself, to the router and to the handles, again in turns; the router's own
latency is the difference. The servers must run already (load_tests.bench starts them).
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from load_tests.arguments import bounded, existing_file, loopback
from load_tests.client import Outcome, StreamClient, Target
from load_tests.closed_loop import ClosedLoad, run_closed
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.prompts import unique_prompt
from load_tests.record import append_result, circumstances
from load_tests.summary import percentile, summarise

RESULTS = Path(__file__).parent / "results" / "relay_vs_handles.jsonl"
_WARM_UP_REQUESTS = 64

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How long and how hard."""

    model: str
    rounds: int = 7
    arm_s: float = 3.0
    """How long requests begin, for each way in each round."""
    concurrency: int = 16
    output_tokens: int = 50
    prompt_tokens: int = 32
    unary_requests: int = 300
    """Whole answers of one token, to each target, one at a time."""
    seed: int = 0

    @property
    def load(self) -> ClosedLoad:
        """What one way gets in one round."""
        return ClosedLoad(
            model=self.model,
            concurrency=self.concurrency,
            requests=1_000_000,
            duration_s=self.arm_s,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            seed=self.seed,
            timeout_s=60.0,
        )


async def compare_throughput(ways: dict[str, Target], comparison: Comparison) -> Json:
    """Rounds of all, in turns; the router's ratio of tokens/s to each other way is taken within a round."""
    for target in ways.values():
        warm_up = replace(comparison.load, requests=_WARM_UP_REQUESTS, seed=comparison.seed - 1)
        await run_closed(target, warm_up)
    rounds: list[dict[str, Json]] = []
    for number in range(comparison.rounds):
        measured = {}
        for name, target in ways.items():
            load = replace(comparison.load, seed=comparison.seed + number)
            outcomes, elapsed_s = await run_closed(target, load)
            measured[name] = summarise(outcomes, elapsed_s=elapsed_s)
        rounds.append(measured)
        rates = {name: one["tokens_per_s"] for name, one in measured.items()}
        print(f"round {number + 1} of {comparison.rounds}: {rates}", file=sys.stderr)
    measured_ways = {name: _over_rounds([one[name] for one in rounds]) for name in ways}
    return {**measured_ways, "relay_over": {name: _ratios(rounds, name) for name in ways if name != "relay"}}


def _ratios(rounds: list[dict[str, Json]], other: str) -> Json:
    ratios = [one["relay"]["tokens_per_s"] / (one[other]["tokens_per_s"] or 1e-9) for one in rounds]
    return {"per_round": [round(ratio, 2) for ratio in ratios], **(_range(ratios) or {})}


def _over_rounds(rounds: list[Json]) -> Json:
    failures: Counter[str] = Counter()
    for one in rounds:
        failures.update(one["failures"])
    answered = [one for one in rounds if one["completed"]]
    return {
        "tokens_per_s": _range([one["tokens_per_s"] for one in rounds]),
        "requests_per_s": _range([one["requests_per_s"] for one in rounds]),
        "ttft_s_p50": _range([one["ttft_s"]["p50"] for one in answered]),
        "e2e_s_p50": _range([one["e2e_s"]["p50"] for one in answered]),
        "e2e_s_p99": _range([one["e2e_s"]["p99"] for one in answered]),
        "completed": sum(one["completed"] for one in rounds),
        "failures": dict(failures),
    }


def _range(values: list[float]) -> Json | None:
    if not values:
        return None
    return {"min": round(min(values), 6), "median": round(median(values), 6), "max": round(max(values), 6)}


async def compare_latency(targets: dict[str, Target], comparison: Comparison) -> Json:
    """Whole answers of one token, one request at a time, the targets in turns."""
    clients = {name: StreamClient(target, timeout_s=60.0) for name, target in targets.items()}
    rng = random.Random(comparison.seed)
    took: dict[str, list[Outcome]] = {name: [] for name in targets}
    for number in range(comparison.unary_requests + _WARM_UP_REQUESTS):
        for name, client in clients.items():
            outcome = await client.send(_unary(comparison, rng, number))
            if number >= _WARM_UP_REQUESTS:
                took[name].append(outcome)
    for client in clients.values():
        client.close()
    return _latencies(took)


def _unary(comparison: Comparison, rng: random.Random, number: int) -> Json:
    prompt = unique_prompt(rng, number, tokens=comparison.prompt_tokens)
    messages = [{"role": "user", "content": prompt}]
    return {"model": comparison.model, "messages": messages, "max_tokens": 1, "temperature": 0}


def _latencies(took: dict[str, list[Outcome]]) -> Json:
    result: Json = {}
    for name, outcomes in took.items():
        good = [outcome.timeline.e2e_s or 0.0 for outcome in outcomes if outcome.ok]
        result[name] = {
            "e2e_s_p50": round(percentile(good, 0.5), 6) if good else None,
            "e2e_s_p99": round(percentile(good, 0.99), 6) if good else None,
            "failures": dict(Counter(outcome.kind for outcome in outcomes if not outcome.ok)),
        }
    for name in result.keys() - {"engine"}:
        for share in ("p50", "p99"):
            here, direct = result[name][f"e2e_s_{share}"], result["engine"][f"e2e_s_{share}"]
            known = here is not None and direct is not None
            result[name][f"added_s_{share}"] = round(here - direct, 6) if known else None
    return result


async def compare(targets: dict[str, Target], comparison: Comparison) -> Json:
    """Both halves; `targets` has `engine`, `relay` and the ways it is compared with."""
    ways = {name: target for name, target in targets.items() if name != "engine"}
    throughput = await compare_throughput(ways, comparison)
    print("latency, one request at a time", file=sys.stderr)
    latency = await compare_latency(targets, comparison)
    return {"throughput": throughput, "unary_latency": latency}


def _rows(measured: Json, seed: int) -> list[Json]:
    """One row for each way in each half."""
    rows: list[Json] = []
    for half, ways in measured.items():
        for name, found in ways.items():
            if isinstance(found, dict) and "failures" in found:
                failed = {"failures": sum(found["failures"].values()), "failure_kinds": found["failures"]}
                rows.append({"case": half, "policy": name, "seed": seed, **_flat(found), **failed})
    return rows


def _flat(found: Json) -> Json:
    """Units last: `e2e_s_p50: {median, min, max}` becomes `e2e_p50_s`, `e2e_p50_s_min`, `e2e_p50_s_max`."""
    row: Json = {}
    for name, value in found.items():
        what, unit, share = name.partition("_s_p")
        label = f"{what}_p{share}_s" if unit else name
        if not isinstance(value, dict):
            row[label] = value
        elif name != "failures":
            row |= {label if part == "median" else f"{label}_{part}": each for part, each in value.items()}
    return row


def _options(arguments: list[str] | None) -> argparse.Namespace:
    default = Comparison(model="")
    parser = Parser(
        prog="python -m load_tests.relay_vs_handles",
        description="Tokens/s and added latency of the router and of Serve handles, side by side; prints one "
        "JSON result and appends it to the results.",
    )
    parser.add_argument("--relay-url", type=loopback, required=True, help="Tidemill's gateway")
    parser.add_argument("--handles-url", type=loopback, required=True, help="handles, Serve's defaults")
    parser.add_argument("--handles-optimised-url", type=loopback, help="handles, throughput-optimised")
    parser.add_argument("--engine-url", type=loopback, required=True, help="one engine, directly")
    parser.add_argument("--model", required=True, help="name of the served model")
    parser.add_argument("--rounds", type=bounded(int, 5, 100), default=default.rounds)
    parser.add_argument("--arm-s", type=bounded(float, 0.5, 60), default=default.arm_s, help="(%(default)s)")
    parser.add_argument("--concurrency", type=bounded(int, 1, 256), default=default.concurrency)
    parser.add_argument("--output-tokens", type=bounded(int, 1, 1000), default=default.output_tokens)
    parser.add_argument("--unary-requests", type=bounded(int, 20, 10_000), default=default.unary_requests)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument(
        "--config", type=existing_file, help="what the cluster was started with; its hash is recorded"
    )
    parser.add_argument("--engine-origin", default="given", help="what --engine-url is; recorded")
    parser.add_argument("--results", type=Path, default=RESULTS, help="one more line goes here")
    parser.add_argument("--json", action="store_true", help="the result in the form of all benchmarks")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line; fails if any request failed, as rates of failing servers say nothing."""
    options = _options(arguments)
    comparison = Comparison(
        model=options.model,
        rounds=options.rounds,
        arm_s=options.arm_s,
        concurrency=options.concurrency,
        output_tokens=options.output_tokens,
        unary_requests=options.unary_requests,
        seed=options.seed,
    )
    targets = {"engine": options.engine_url, "relay": options.relay_url, "handles": options.handles_url}
    if options.handles_optimised_url is not None:
        targets["handles_optimised"] = options.handles_optimised_url
    facts = circumstances(options.config)
    measured = asyncio.run(compare(targets, comparison))
    facts |= {"engine_origin": options.engine_origin, "comparison": asdict(comparison)}
    result = {"test": "relay_vs_handles", **facts, **measured}
    if options.json:
        head = {"benchmark": "relay_vs_handles", "command": spelled("relay_vs_handles", arguments), **facts}
        print_json({**head, "rows": _rows(measured, comparison.seed)})
    else:
        print_json(result)
    failed = {
        f"{half}.{name}": one["failures"]
        for half in ("throughput", "unary_latency")
        for name, one in measured[half].items()
        if isinstance(one, dict) and one.get("failures")
    }
    if failed:
        sys.exit(f"not recorded, because requests failed: {failed}")
    append_result(options.results, result)


if __name__ == "__main__":
    exit_with(main)
