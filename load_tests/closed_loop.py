"""A fixed number of streams, each of which sends its next request when the last one has ended.

For throughput: as the load adapts to the server, latencies from here flatter a slow one (see open_loop).
"""

import argparse
import asyncio
import itertools
import random
import sys
from dataclasses import asdict, dataclass
from typing import Any

from load_tests.arguments import bounded, loopback
from load_tests.client import Outcome, StreamClient, Target
from load_tests.command import Parser, exit_with, print_json, spelled, told_if_unanswered
from load_tests.prompts import unique_prompt
from load_tests.record import circumstances
from load_tests.summary import as_row, summarise

CONCURRENCY_MAX = 1024
REQUESTS_MAX = 1_000_000
DURATION_MAX_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoad:
    """What is sent."""

    model: str
    concurrency: int = 16
    requests: int = 320
    """In all; fewer if the time ends first."""
    duration_s: float = 60.0
    """No request begins later than this."""
    prompt_tokens: int = 32
    output_tokens: int = 50
    stream: bool = True
    temperature: float = 0.0
    """Above 0, equal requests need not get equal answers, and no cache is asked."""
    seed: int = 0
    timeout_s: float = 120.0


async def run_closed(
    target: Target, load: ClosedLoad, *, api_key: str | None = None
) -> tuple[list[Outcome], float]:
    """Send the load; returns the outcomes and the seconds from the first request to the last byte."""
    loop = asyncio.get_running_loop()
    client = StreamClient(target, timeout_s=load.timeout_s, api_key=api_key)
    rng = random.Random(load.seed)
    numbers = itertools.count()
    outcomes: list[Outcome] = []
    began_at_s = loop.time()

    async def stream() -> None:
        for number in numbers:
            if number >= load.requests or loop.time() - began_at_s >= load.duration_s:
                return
            outcomes.append(await client.send(_body(load, rng, number)))

    try:
        async with asyncio.TaskGroup() as streams:
            for _ in range(load.concurrency):
                streams.create_task(stream())
    finally:
        client.close()
    return outcomes, loop.time() - began_at_s


def _body(load: ClosedLoad, rng: random.Random, number: int) -> dict[str, Any]:
    prompt = unique_prompt(rng, number, tokens=load.prompt_tokens)
    return {
        "model": load.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": load.output_tokens,
        "temperature": load.temperature,
        "ignore_eos": True,
        "stream": load.stream,
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    default = ClosedLoad(model="")
    parser = Parser(
        prog="python -m load_tests.closed_loop",
        description="N concurrent streams against a server on this machine; prints one JSON result.",
    )
    parser.add_argument("--url", type=loopback, required=True, help="for example http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True, help="name of the served model")
    parser.add_argument("--concurrency", type=bounded(int, 1, CONCURRENCY_MAX), default=default.concurrency)
    parser.add_argument("--requests", type=bounded(int, 1, REQUESTS_MAX), default=default.requests)
    parser.add_argument(
        "--duration-max",
        type=bounded(float, 0.1, DURATION_MAX_S),
        default=default.duration_s,
        help="seconds after which no request begins (%(default)s)",
    )
    parser.add_argument("--prompt-tokens", type=bounded(int, 1, 1_000_000), default=default.prompt_tokens)
    parser.add_argument("--output-tokens", type=bounded(int, 1, 100_000), default=default.output_tokens)
    parser.add_argument("--no-stream", action="store_true", help="ask for whole answers")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the prompts (%(default)s)")
    parser.add_argument(
        "--timeout", type=bounded(float, 0.1, 3600), default=default.timeout_s, help="seconds for one request"
    )
    parser.add_argument("--json", action="store_true", help="the result in the form of all benchmarks")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; status 1 if nothing was answered."""
    options = _options(arguments)
    load = ClosedLoad(
        model=options.model,
        concurrency=options.concurrency,
        requests=options.requests,
        duration_s=options.duration_max,
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        stream=not options.no_stream,
        seed=options.seed,
        timeout_s=options.timeout,
    )
    print(f"{load.concurrency} streams, {load.requests} requests to {options.url.url}", file=sys.stderr)
    outcomes, elapsed_s = asyncio.run(run_closed(options.url, load))
    summary = summarise(outcomes, elapsed_s=elapsed_s)
    facts = {"url": options.url.url, "load": asdict(load)}
    if options.json:
        row = {"case": "closed_loop", "policy": "none", "seed": load.seed, **as_row(summary)}
        head = {"benchmark": "closed_loop", "command": spelled("closed_loop", arguments)}
        print_json({**head, **circumstances(None), **facts, "rows": [row]})
    else:
        print_json({"test": "closed_loop", **facts, **summary})
    return told_if_unanswered(summary["completed"] > 0, options.url.url)


if __name__ == "__main__":
    exit_with(main)
