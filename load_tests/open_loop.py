"""Requests that arrive when their users come, whether or not the server keeps up.

For latency and goodput: a slow server meets the same arrivals as a fast one, and the time a request waits
because the server is behind counts.
"""

import argparse
import asyncio
import itertools
import random
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.simulation.traffic.trace import TraceError
from load_tests.arguments import bounded, loopback
from load_tests.client import Outcome, StreamClient, Target
from load_tests.command import Parser, exit_with, print_json, spelled, told_if_unanswered
from load_tests.prompts import unique_prompt
from load_tests.record import circumstances
from load_tests.summary import as_row, goodput, spread, summarise
from load_tests.traces import Arrival, poisson, read_trace

REQUESTS_MAX = 1_000_000
DURATION_MAX_S = 24 * 3600.0
PROGRESS_PERIOD_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoad:
    """How arrivals become requests."""

    model: str
    rate_scale: float = 1.0
    """Arrivals come so many times faster than the trace says."""
    duration_s: float = 60.0
    """No request begins later than this."""
    requests: int = 100_000
    """No more than this in all."""
    in_flight_max: int = 1024
    """A request that would be one more is not sent and counts as failed (`client_full`)."""
    prompt_tokens_max: int = 4096
    """Longer prompts are cut to this."""
    output_tokens_max: int = 1024
    """Longer answers are cut to this."""
    bytes_per_token: float = 4.0
    """Of the served model's tokenizer, for prompts of the wanted length."""
    seed: int = 0
    timeout_s: float = 120.0


@dataclass(slots=True)
class OpenRun:
    """What happened."""

    outcomes: list[Outcome]
    elapsed_s: float = 0.0
    client_full: int = 0
    late_s: list[float] | None = None
    """How late the generator itself sent each request; large values make the other figures void."""


@dataclass(frozen=True, slots=True)
class Due:
    """A request of an open loop."""

    at_s: float
    """After the beginning."""
    send: Callable[[float], Coroutine[Any, Any, Outcome]]
    """From the loop time at which it is due."""


async def drive(requests: Iterable[Due], *, duration_s: float, in_flight_max: int) -> OpenRun:
    """Send requests in their time; returns when every answer has ended.

    Args:
        requests: in order of time.
        duration_s: none begins later than this.
        in_flight_max: one that would be one more is not sent and counts as failed.
    """
    loop = asyncio.get_running_loop()
    late_s: list[float] = []
    run = OpenRun(outcomes=[], late_s=late_s)
    began_at_s = loop.time()
    in_flight: set[asyncio.Task[Outcome]] = set()

    def ended(task: asyncio.Task[Outcome]) -> None:
        in_flight.discard(task)
        if not task.cancelled():
            run.outcomes.append(task.result())

    progress = asyncio.create_task(_report_progress(run, in_flight))
    try:
        for request in requests:
            if request.at_s >= duration_s:
                break
            due_at_s = began_at_s + request.at_s
            await asyncio.sleep(max(0.0, due_at_s - loop.time()))
            late_s.append(max(0.0, loop.time() - due_at_s))
            if len(in_flight) >= in_flight_max:
                run.client_full += 1
                continue
            task = asyncio.create_task(request.send(due_at_s))
            in_flight.add(task)
            task.add_done_callback(ended)
        await asyncio.gather(*in_flight)
        await asyncio.sleep(0)
    finally:
        progress.cancel()
    run.elapsed_s = loop.time() - began_at_s
    return run


async def run_open(target: Target, arrivals: Iterable[Arrival], load: OpenLoad) -> OpenRun:
    """Send the arrivals in their time; returns when every answer has ended."""
    client = StreamClient(target, timeout_s=load.timeout_s)
    rng = random.Random(load.seed)

    def requests() -> Iterator[Due]:
        for number, arrival in enumerate(itertools.islice(arrivals, load.requests)):
            body = _body(load, arrival, rng, number)
            yield Due(arrival.at_s / load.rate_scale, partial(_send, client, body))

    try:
        return await drive(requests(), duration_s=load.duration_s, in_flight_max=load.in_flight_max)
    finally:
        client.close()


async def _send(client: StreamClient, body: dict[str, Any], due_at_s: float) -> Outcome:
    return await client.send(body, arrived_at_s=due_at_s)


async def _report_progress(run: OpenRun, in_flight: set[asyncio.Task[Outcome]]) -> None:
    while True:
        await asyncio.sleep(PROGRESS_PERIOD_S)
        failed = sum(not outcome.ok for outcome in run.outcomes)
        print(f"{len(run.outcomes)} ended ({failed} failed), {len(in_flight)} in flight", file=sys.stderr)


def _body(load: OpenLoad, arrival: Arrival, rng: random.Random, number: int) -> dict[str, Any]:
    tokens = min(arrival.prompt_tokens, load.prompt_tokens_max)
    prompt = unique_prompt(rng, number, tokens=tokens, bytes_per_token=load.bytes_per_token)
    return {
        "model": load.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max(1, min(arrival.output_tokens, load.output_tokens_max)),
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def report(run: OpenRun, *, slo_ttft_s: float, slo_tpot_s: float) -> dict[str, Any]:
    """The result of a run. Requests that the client could not send count as failures."""
    summary = summarise(run.outcomes, elapsed_s=run.elapsed_s)
    asked = len(run.outcomes) + run.client_full
    good = goodput(run.outcomes, elapsed_s=run.elapsed_s, ttft_max_s=slo_ttft_s, tpot_max_s=slo_tpot_s)
    if run.client_full:
        summary["requests"] = asked
        summary["failures"]["client_full"] = run.client_full
        good["attainment"] = round(good["met"] / asked, 4)
    return {**summary, "goodput": good, "sent_late_s": spread(run.late_s or ())}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    default = OpenLoad(model="")
    parser = Parser(
        prog="python -m load_tests.open_loop",
        description="Poisson or traced arrivals against a server on this machine; prints one JSON result.",
    )
    parser.add_argument("--url", type=loopback, required=True, help="for example http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True, help="name of the served model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--rate", type=bounded(float, 0.001, 100_000), help="Poisson arrivals per second")
    source.add_argument("--trace", type=Path, help="a trace in one of the formats of load_tests/data.md")
    parser.add_argument("--prompt-tokens", type=bounded(int, 1, 1_000_000), default=256, help="with --rate")
    parser.add_argument("--output-tokens", type=bounded(int, 1, 100_000), default=64, help="with --rate")
    parser.add_argument("--rate-scale", type=bounded(float, 1e-6, 1e6), default=default.rate_scale)
    parser.add_argument(
        "--duration-max", type=bounded(float, 0.1, DURATION_MAX_S), default=default.duration_s
    )
    parser.add_argument("--requests-max", type=bounded(int, 1, REQUESTS_MAX), default=default.requests)
    parser.add_argument("--in-flight-max", type=bounded(int, 1, 10_000), default=default.in_flight_max)
    parser.add_argument(
        "--prompt-tokens-max", type=bounded(int, 1, 1_000_000), default=default.prompt_tokens_max
    )
    parser.add_argument(
        "--output-tokens-max", type=bounded(int, 1, 100_000), default=default.output_tokens_max
    )
    parser.add_argument("--bytes-per-token", type=bounded(float, 0.5, 16), default=default.bytes_per_token)
    parser.add_argument("--slo-ttft", type=bounded(float, 0, 3600), default=2.0, help="seconds (%(default)s)")
    parser.add_argument("--slo-tpot", type=bounded(float, 0, 3600), default=0.1, help="seconds (%(default)s)")
    parser.add_argument("--timeout", type=bounded(float, 0.1, 3600), default=default.timeout_s)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--json", action="store_true", help="the result in the form of all benchmarks")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; status 1 if nothing was answered."""
    options = _options(arguments)
    load = OpenLoad(
        model=options.model,
        rate_scale=options.rate_scale,
        duration_s=options.duration_max,
        requests=options.requests_max,
        in_flight_max=options.in_flight_max,
        prompt_tokens_max=options.prompt_tokens_max,
        output_tokens_max=options.output_tokens_max,
        bytes_per_token=options.bytes_per_token,
        seed=options.seed,
        timeout_s=options.timeout,
    )
    try:
        arrivals = _arrivals(options)
    except TraceError as error:
        sys.exit(f"open_loop: {error}")
    print(f"open loop to {options.url.url} for at most {load.duration_s:g} s", file=sys.stderr)
    run = asyncio.run(run_open(options.url, arrivals, load))
    source = str(options.trace.name) if options.trace else f"poisson {options.rate:g}/s"
    result = report(run, slo_ttft_s=options.slo_ttft, slo_tpot_s=options.slo_tpot)
    facts = {"url": options.url.url, "arrivals": source, "load": asdict(load)}
    if options.json:
        good = result.pop("goodput")
        row = {"case": source, "policy": "open_loop", "seed": load.seed, **as_row(result), **good}
        head = {"benchmark": "open_loop", "command": spelled("open_loop", arguments)}
        print_json({**head, **circumstances(None), **facts, "rows": [row]})
    else:
        print_json({"test": "open_loop", **facts, **result})
    return told_if_unanswered(result["completed"] > 0, options.url.url)


def _arrivals(options: argparse.Namespace) -> Iterable[Arrival]:
    if options.trace:
        return read_trace(options.trace, requests_max=options.requests_max)
    return poisson(
        requests_per_s=options.rate,
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        seed=options.seed,
    )


if __name__ == "__main__":
    exit_with(main)
