"""Two real engines, used in three ways: combined, always disaggregated, and as the router chooses.

    python -m load_tests.disaggregation --json

The same arrivals in each: short chats and a share of long prompts. Two engines with a core each do both
phases (`combined`); or one computes every prompt and the other makes all tokens (`always`); or the router
decides for each prompt (`conditional`, Tidemill's default). Each way has a cluster of its own.
"""

import argparse
import asyncio
import os
import random
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cluster.config import TidemillConfig, parse_config
from load_tests.arguments import bounded, existing_file
from load_tests.bench import BenchError, cluster, wait_for_answer
from load_tests.client import Outcome, StreamClient, Target, parse_target
from load_tests.command import Parser, exit_with, names_of, print_json, spelled
from load_tests.open_loop import Due, drive
from load_tests.prompts import unique_prompt
from load_tests.record import circumstances
from load_tests.replaying.figures import Done, Slo, rows

CONFIG = Path(__file__).parent / "configs" / "disaggregation.yaml"
WAYS = ("combined", "always", "conditional")
_NEVER_S = 1e9

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What arrives."""

    rate_per_s: float = 1.0
    duration_s: float = 60.0
    long_share: float = 0.25
    """Part of the requests that are long."""
    chat_prompt_tokens: int = 48
    chat_output_tokens: int = 32
    long_prompt_tokens: int = 768
    long_output_tokens: int = 12
    bytes_per_token: float = 4.0
    timeout_s: float = 120.0

    def arrivals(self, model: str, seed: int) -> Iterator[tuple[float, str, Json]]:
        """When, `chat` or `long`, and the body; equal for equal seeds."""
        rng = random.Random(seed)
        at_s, number = 0.0, 0
        while at_s < self.duration_s:
            kind = "long" if rng.random() < self.long_share else "chat"
            tokens = self.long_prompt_tokens if kind == "long" else self.chat_prompt_tokens
            prompt = unique_prompt(rng, number, tokens=tokens, bytes_per_token=self.bytes_per_token)
            body = {
                "model": model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": self.long_output_tokens if kind == "long" else self.chat_output_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
            yield at_s, kind, body
            at_s += rng.expovariate(self.rate_per_s)
            number += 1


def config_of(way: str, base: Json) -> Json:
    """The configuration of one way to use the two engines.

    Args:
        way: one of `WAYS`.
        base: with one pool of two engines.
    """
    ((_, pool),) = base["pools"].items()
    if way == "combined":
        return base
    single = {**pool, "replicas": {"min": 1, "max": 1}}
    pools = {"prefill": {**single, "role": "prefill"}, "decode": {**single, "role": "decode"}}
    changed = {**base, "pools": pools}
    if way == "always":
        limits = {"uncached_tokens_min": 1, "prefill_wait_s_max": _NEVER_S, "ttft_loss_s_max": _NEVER_S}
        changed["routing"] = {"disaggregation": limits}
    return changed


async def measure(target: Target, model: str, mix: Mix, *, seed: int) -> list[Done]:
    """Send the arrivals; what became of each, its kind in place of a tenant."""
    client = StreamClient(target, timeout_s=mix.timeout_s)
    done: list[Done] = []

    async def send(body: Json, note: Any, due_at_s: float) -> Outcome:
        outcome = await client.send(body, arrived_at_s=due_at_s)
        done.append(note(outcome=outcome))
        return outcome

    def requests() -> Iterator[Due]:
        for number, (at_s, kind, body) in enumerate(mix.arrivals(model, seed)):
            note = partial(Done, number=number, tenant=kind, at_s=at_s, counts=True)
            yield Due(at_s, partial(send, body, note))

    try:
        await drive(requests(), duration_s=mix.duration_s, in_flight_max=256)
    finally:
        client.close()
    return sorted(done, key=lambda one: one.number)


async def _way(way: str, base: Json, mix: Mix, slo: Slo, seeds: Sequence[int]) -> list[Json]:
    found: list[Json] = []
    with tempfile.TemporaryDirectory(prefix="tidemill-disaggregation-") as folder:
        path = Path(folder) / f"{way}.yaml"
        path.write_text(yaml.safe_dump(config_of(way, base)), encoding="utf-8")
        config: TidemillConfig = parse_config(path.read_text("utf-8"))
        url = f"http://{config.gateway.host}:{config.gateway.port}"
        started = cluster(
            path,
            admin_key=secrets.token_urlsafe(24),
            start_timeout_s=config.local_cluster.start_timeout_s,
        )
        async with started:
            await wait_for_answer(url, config.default_model)
            target = parse_target(url)
            # The first long prompt of each engine costs more than all that follow.
            await measure(target, config.default_model, Mix(duration_s=8.0, long_share=0.5), seed=-1)
            for seed in seeds:
                done = await measure(target, config.default_model, mix, seed=seed)
                apart = sum(d.outcome.headers.get("x-tidemill-path") == "disaggregated" for d in done)
                for row in rows(
                    done, slo, case="chats and long prompts", seed=seed, elapsed_s=mix.duration_s
                ):
                    kind = row.pop("tenant")
                    case = f"{row['case']}: {kind}"
                    found.append({**row, "case": case, "policy": way, "disaggregated_requests": apart})
                print(f"{way}, seed {seed}: {_told(found[-3])}", file=sys.stderr, flush=True)
    return found


def _told(row: Json) -> str:
    names = ("requests", "failures", "ttft_p50_s", "ttft_p95_s", "itl_p50_s", "itl_p95_s", "goodput_per_s")
    return ", ".join(f"{name} {row.get(name)}" for name in names)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    mix = Mix()
    parser = Parser(prog="python -m load_tests.disaggregation", description=__doc__.split("\n")[0])
    parser.add_argument("--ways", default="all", help=f"all, or names with commas: {', '.join(WAYS)}")
    parser.add_argument("--seeds", type=bounded(int, 1, 100), default=1, help="runs of each (%(default)s)")
    parser.add_argument("--rate", type=bounded(float, 0.01, 1000), default=mix.rate_per_s, help="requests/s")
    parser.add_argument(
        "--duration-s", type=bounded(float, 5, 3600), default=mix.duration_s, help="of each run"
    )
    parser.add_argument(
        "--long-share",
        type=bounded(float, 0, 1),
        default=mix.long_share,
        help="of the requests that are long prompts",
    )
    parser.add_argument("--slo-ttft", type=bounded(float, 0, 3600), default=3.0, help="seconds (%(default)s)")
    parser.add_argument("--slo-tpot", type=bounded(float, 0, 3600), default=0.2, help="seconds (%(default)s)")
    parser.add_argument("--config", type=existing_file, default=CONFIG, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)
    try:
        given.ways = names_of(given.ways, WAYS, "way")
    except ValueError as error:
        parser.error(str(error))
    return given


async def _measured(given: argparse.Namespace, mix: Mix, slo: Slo) -> list[Json]:
    base = yaml.safe_load(given.config.read_text(encoding="utf-8"))
    found: list[Json] = []
    for way in given.ways:
        found += await _way(way, base, mix, slo, range(given.seeds))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    given = _options(arguments)
    mix = Mix(rate_per_s=given.rate, duration_s=given.duration_s, long_share=given.long_share)
    slo = Slo(ttft_s=given.slo_ttft, tpot_s=given.slo_tpot)
    facts = circumstances(given.config)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        found = asyncio.run(_measured(given, mix, slo))
    except BenchError as error:
        sys.exit(f"disaggregation: {error}")
    if given.json:
        head = {
            "benchmark": "disaggregation",
            "command": spelled("disaggregation", arguments),
            **facts,
            "mix": asdict(mix),
            "slo": asdict(slo),
        }
        print_json({**head, "rows": found})
    else:
        print("\n".join(f"{row['policy']:12} {row['case']:32} {_told(row)}" for row in found))
    return 0


if __name__ == "__main__":
    exit_with(main)
