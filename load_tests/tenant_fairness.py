"""What a tenant that floods does to another one: time to first token of the calm one, and shares of tokens.

By default in virtual time (`load_tests.fair_queue`), for several seeds: the router's own queue before
simulated engines. With `--live` over HTTP against a cluster that is started for it, in rounds of three arms
in turns, so that a machine that gets slower gets slower for all: `busy`, the neighbour asks for no more than
its share; `flood`, it asks for twice what the engines can do; `flood_one_line`, the same flood, but the calm
requests carry the flooding tenant's key, as if there were no tenants. A change in per cent says something of
the queue only where first tokens take much longer than what a busy machine adds (`--prompt-tokens`).
"""

import argparse
import asyncio
import os
import random
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import orjson

from cluster.config import ConfigError, TidemillConfig, load_config
from load_tests import fair_queue
from load_tests.arguments import bounded
from load_tests.bench import ROOT, BenchError, Process, cluster, cluster_environment, tidemill_command
from load_tests.client import Outcome, StreamClient, Target
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.prompts import unique_prompt
from load_tests.record import circumstances
from load_tests.summary import percentile

CONFIG = Path(__file__).parent / "configs" / "tenants.yaml"
CALM, FLOODING = "calm", "flooding"
ARMS = ("busy", "flood", "flood_one_line")
PROMPT_TOKENS = (64, 256, 1024)
"""Lengths of prompts, in virtual time."""
ABLATIONS = frozenset({"flood_quarter_reserved", "flood_without_reserve", "flood_one_line"})
"""Arms that are run with the longest prompts only."""
_BOOTSTRAPS = 2000
_SETTLE_S = 2.0
"""Between arms, for queues to empty and places to go back."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fairness:
    """How long and how hard."""

    rounds: int = 4
    arm_s: float = 20.0
    calm_per_s: float = 4.0
    busy_per_s: float = 14.0
    """About half of what the engines do."""
    flood_per_s: float = 60.0
    prompt_tokens: int = 1024
    output_tokens: int = 32
    seed: int = 0


@dataclass(slots=True, kw_only=True)
class Arm:
    """What was seen in all rounds of one arm."""

    calm: list[Outcome]
    flooding: list[Outcome]
    elapsed_s: float = 0.0
    """Until the last of them was answered: longer than requests arrived."""


async def _arrive(
    client: StreamClient, rate_per_s: float, load: Fairness, rng: random.Random
) -> list[Outcome]:
    """Poisson arrivals for the length of an arm; all outcomes."""
    loop = asyncio.get_running_loop()
    began_at_s = due_at_s = loop.time()
    tasks: list[asyncio.Task[Outcome]] = []
    while True:
        due_at_s += rng.expovariate(rate_per_s)
        if due_at_s >= began_at_s + load.arm_s:
            return await asyncio.gather(*tasks)
        body = {
            "model": "sim",
            "messages": [
                {"role": "user", "content": unique_prompt(rng, len(tasks), tokens=load.prompt_tokens)}
            ],
            "max_tokens": load.output_tokens,
            "stream": True,
        }
        await asyncio.sleep(max(0.0, due_at_s - loop.time()))
        tasks.append(asyncio.create_task(client.send(body, arrived_at_s=due_at_s)))


async def compare(target: Target, keys: dict[str, str], load: Fairness) -> dict[str, Arm]:
    """Run all rounds."""
    arms = {name: Arm(calm=[], flooding=[]) for name in ARMS}
    for number in range(load.rounds):
        order = ARMS[number % len(ARMS) :] + ARMS[: number % len(ARMS)]
        for name in order:
            rng = random.Random(f"{load.seed}-{number}")
            calm_key = keys[FLOODING if name == "flood_one_line" else CALM]
            calm, flooding = (StreamClient(target, api_key=key) for key in (calm_key, keys[FLOODING]))
            rate_per_s = load.busy_per_s if name == "busy" else load.flood_per_s
            began_at_s = asyncio.get_running_loop().time()
            first, second = await asyncio.gather(
                _arrive(calm, load.calm_per_s, load, random.Random(rng.random())),
                _arrive(flooding, rate_per_s, load, random.Random(rng.random())),
            )
            arms[name].calm += first
            arms[name].flooding += second
            arms[name].elapsed_s += asyncio.get_running_loop().time() - began_at_s
            calm.close()
            flooding.close()
            print(f"round {number + 1}, {name}: {_line(first)} | {_line(second)}", file=sys.stderr)
            await asyncio.sleep(_SETTLE_S)
    return arms


def _line(outcomes: Sequence[Outcome]) -> str:
    ttft_s = _ttft(outcomes)
    shown = f"p95 TTFT {percentile(ttft_s, 0.95):.3f} s" if ttft_s else "none answered"
    return f"{len(ttft_s)}/{len(outcomes)} answered, {shown}"


def _ttft(outcomes: Sequence[Outcome]) -> list[float]:
    return [o.timeline.ttft_s for o in outcomes if o.ok and o.timeline.ttft_s is not None]


def report(arms: dict[str, Arm], load: Fairness) -> list[Json]:
    """One row for each arm and tenant; the calm one's with the change of its p95 against `busy`."""
    rng = random.Random(load.seed)
    base_s = _ttft(arms["busy"].calm)
    rows: list[Json] = []
    for name, arm in arms.items():
        for tenant, outcomes in ((CALM, arm.calm), (FLOODING, arm.flooding)):
            ttft_s = _ttft(outcomes)
            row: Json = {
                "case": name,
                "policy": tenant,
                "seed": load.seed,
                "prompt_tokens": load.prompt_tokens,
                "requests": len(outcomes),
                "answered_ratio": round(len(ttft_s) / max(1, len(outcomes)), 4),
                "tokens_per_s": round(
                    sum(o.timeline.output_tokens for o in outcomes if o.ok) / arm.elapsed_s, 1
                ),
            }
            if ttft_s:
                row |= {f"ttft_p{p}_s": round(percentile(ttft_s, p / 100), 4) for p in (50, 95, 99)}
            if tenant == CALM and ttft_s and name != "busy":
                row |= _change(base_s, ttft_s, rng)
            rows.append(row)
    return rows


def _change(before_s: list[float], after_s: list[float], rng: random.Random) -> Json:
    """By how much the p95 moved, with a bootstrap interval of 95 %."""
    ratios = sorted(
        percentile(rng.choices(after_s, k=len(after_s)), 0.95)
        / percentile(rng.choices(before_s, k=len(before_s)), 0.95)
        - 1.0
        for _ in range(_BOOTSTRAPS)
    )
    found = percentile(after_s, 0.95) / percentile(before_s, 0.95) - 1.0
    return {
        "ttft_p95_change_ratio": round(found, 4),
        "ttft_p95_change_low_ratio": round(percentile(ratios, 0.025), 4),
        "ttft_p95_change_high_ratio": round(percentile(ratios, 0.975), 4),
    }


async def _key(tenant: str, config: Path, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *tidemill_command(),
        *("keys", "create", tenant, "-c", str(config), "--json"),
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise BenchError(f"no key for {tenant}: {output.decode(errors='replace')}")
    key: str = orjson.loads(output)["key"]
    return key


def _state(process: Process) -> dict[str, str]:
    """The environment in which the cluster's state is found."""
    return {**os.environ, "TIDEMILL_STATE": cluster_environment(process)["TIDEMILL_STATE"]}


async def run(config_path: Path, config: TidemillConfig, load: Fairness) -> list[Json]:
    """Start, measure, stop.

    Raises:
        BenchError: the cluster did not start, or gave no keys.
    """
    start_timeout_s = config.local_cluster.start_timeout_s
    admin_key = secrets.token_urlsafe(24)
    async with cluster(config_path, admin_key=admin_key, start_timeout_s=start_timeout_s) as process:
        environment = _state(process)
        keys = {name: await _key(name, config_path, environment) for name in (CALM, FLOODING)}
        await asyncio.sleep(2 * config.tenants.store.keys_reload_s)
        target = Target(config.gateway.host, config.gateway.port, "")
        return report(await compare(target, keys, load), load)


def virtual(seeds: int, duration_s: float, flood_per_s: float) -> list[Json]:
    """Rows for every arm, tenant and seed, and the change of the calm one's p95 over all seeds."""
    rows: list[Json] = []
    p95_s: dict[tuple[str, int], list[float]] = {}
    for seed in range(seeds):
        for tokens in PROMPT_TOKENS:
            base = fair_queue.Traffic(duration_s=duration_s, prompt_tokens=tokens)
            for name, traffic in fair_queue.arms(base, flood_per_s=flood_per_s).items():
                if name in ABLATIONS and tokens != PROMPT_TOKENS[-1]:
                    continue
                for tenant, seen in fair_queue.simulate(traffic, seed).items():
                    rows.append(_virtual_row(name, tenant, seed, seen, traffic))
                    if tenant == CALM:
                        p95_s.setdefault((name, tokens), []).append(rows[-1]["ttft_p95_s"])
                shown = f"seed {seed}, {name}, prompts of {tokens}: calm p95 {p95_s[name, tokens][-1]:.4f} s"
                print(shown, file=sys.stderr)
    for (name, tokens), values in p95_s.items():
        if name != "busy":
            before_s = p95_s["busy", tokens]
            changes = [after / before - 1.0 for after, before in zip(values, before_s, strict=True)]
            head = {"case": name, "policy": CALM, "seed": "all", "prompt_tokens": tokens}
            rows.append({**head, **_interval(changes)})
    return rows


def _virtual_row(
    name: str, tenant: str, seed: int, seen: fair_queue.Seen, traffic: fair_queue.Traffic
) -> Json:
    row: Json = {
        "case": name,
        "policy": tenant,
        "seed": seed,
        "prompt_tokens": traffic.prompt_tokens,
        "requests": seen.asked,
        "answered_ratio": round(len(seen.ttft_s) / max(1, seen.asked), 4),
        "tokens_per_s": round(seen.tokens / traffic.duration_s, 1),
    }
    return row | {f"ttft_p{p}_s": round(percentile(seen.ttft_s, p / 100), 5) for p in (50, 95, 99)}


def _interval(changes: list[float]) -> Json:
    """Mean of the seeds' changes, with a bootstrap interval of 95 %."""
    rng = random.Random(0)
    means = [mean(rng.choices(changes, k=len(changes))) for _ in range(_BOOTSTRAPS)]
    return {
        "ttft_p95_change_ratio": round(mean(changes), 4),
        "ttft_p95_change_low_ratio": round(percentile(means, 0.025), 4),
        "ttft_p95_change_high_ratio": round(percentile(means, 0.975), 4),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    default = Fairness()
    parser = Parser(
        prog="python -m load_tests.tenant_fairness",
        description="What a tenant that floods does to another one.",
    )
    parser.add_argument("--live", action="store_true", help="over HTTP, against a cluster that is started")
    parser.add_argument("--seeds", type=bounded(int, 1, 100), default=5, help="in virtual time")
    parser.add_argument("--duration", type=bounded(float, 10, 3600), default=60.0, help="virtual seconds")
    parser.add_argument(
        "--flood", type=bounded(float, 1, 1000), default=default.flood_per_s, help="requests per second"
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="of the live cluster")
    parser.add_argument("--rounds", type=bounded(int, 1, 100), default=default.rounds, help="live")
    parser.add_argument("--arm", type=bounded(float, 1, 600), default=default.arm_s, help="live, in seconds")
    parser.add_argument(
        "--prompt-tokens",
        type=bounded(int, 1, 8192),
        default=default.prompt_tokens,
        help=f"live; in virtual time all of {', '.join(map(str, PROMPT_TOKENS))}",
    )
    parser.add_argument("--seed", type=bounded(int, 0, 2**32 - 1), default=default.seed, help="live")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _options(arguments)
    load = Fairness(
        rounds=options.rounds,
        arm_s=options.arm,
        flood_per_s=options.flood,
        prompt_tokens=options.prompt_tokens,
        seed=options.seed,
    )
    path = options.config.resolve()
    try:
        if options.live:
            rows = asyncio.run(run(path, load_config(path), load))
        else:
            rows = virtual(options.seeds, options.duration, options.flood)
    except (BenchError, ConfigError) as error:
        sys.exit(f"tenant_fairness: {error}")
    if options.json:
        facts = circumstances(path if options.live else None)
        head = {"benchmark": "tenant_fairness", "command": spelled("tenant_fairness", arguments), **facts}
        print_json({**head, "rows": rows})
    else:
        for row in rows:
            print(row)
    return 0


if __name__ == "__main__":
    exit_with(main)
