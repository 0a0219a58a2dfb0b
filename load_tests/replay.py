"""Replays a trace against a running server: requests come when they came, whether or not it keeps up.

    python -m load_tests.replay --trace FILE --rate 2 --url http://127.0.0.1:8000/v1 --report run.html --json

It reads what `cluster.simulation` reads (load_tests/data.md). Where a trace says which prompts begin alike
(Mooncake), the prompts made for it begin alike. Requests of the warm-up are sent and not counted.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.simulation.traffic.open import open_trace
from cluster.simulation.traffic.trace import Trace, TraceError
from load_tests.arguments import bounded, existing_file, loopback
from load_tests.client import Outcome, StreamClient, Target
from load_tests.command import Parser, exit_with, print_json, spelled, told_if_unanswered
from load_tests.open_loop import DURATION_MAX_S, REQUESTS_MAX, Due, drive
from load_tests.prompts import prompt_of_blocks, unique_prompt
from load_tests.record import append_result, circumstances
from load_tests.replaying.figures import Done, Slo, rows
from load_tests.replaying.report import write_report


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Who sends a part of the requests."""

    name: str
    share: float
    api_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a trace becomes requests."""

    model: str
    warm_up_s: float = 0.0
    """What comes in the first seconds is sent and not counted."""
    in_flight_max: int = 1024
    prompt_tokens_max: int = 4096
    output_tokens_max: int = 1024
    bytes_per_token: float = 4.0
    """Of the served model's tokenizer."""
    seed: int = 0
    timeout_s: float = 120.0


async def replay(
    target: Target, trace: Trace, plan: Replay, tenants: Sequence[Tenant]
) -> tuple[list[Done], list[float], int]:
    """Send the trace; returns what was done, how late the generator was, and what it could not send."""
    clients = {
        tenant.name: StreamClient(target, timeout_s=plan.timeout_s, api_key=tenant.api_key)
        for tenant in tenants
    }
    done: list[Done] = []
    try:
        requests = _requests(trace, plan, tenants, clients, done)
        run = await drive(requests, duration_s=float("inf"), in_flight_max=plan.in_flight_max)
    finally:
        for client in clients.values():
            client.close()
    return sorted(done, key=lambda one: one.number), run.late_s or [], run.client_full


def _requests(
    trace: Trace,
    plan: Replay,
    tenants: Sequence[Tenant],
    clients: dict[str, StreamClient],
    done: list[Done],
) -> Iterator[Due]:
    rng = random.Random(plan.seed)
    shares = [tenant.share for tenant in tenants]
    for number in range(len(trace)):
        tenant = rng.choices(tenants, shares)[0].name
        at_s = float(trace.arrival_s[number])
        body = _body(trace, plan, rng, number)
        note = partial(Done, number=number, tenant=tenant, at_s=at_s, counts=at_s >= plan.warm_up_s)
        yield Due(at_s, partial(_send, clients[tenant], body, note, done))


async def _send(
    client: StreamClient, body: dict[str, Any], note: Any, done: list[Done], due: float
) -> Outcome:
    outcome = await client.send(body, arrived_at_s=due)
    done.append(note(outcome=outcome))
    return outcome


def _body(trace: Trace, plan: Replay, rng: random.Random, number: int) -> dict[str, Any]:
    tokens = min(int(trace.prompt_tokens[number]), plan.prompt_tokens_max)
    if trace.blocks is not None:
        blocks, size = trace.blocks[number], trace.block_tokens
        prompt = prompt_of_blocks(blocks, size, tokens=tokens, bytes_per_token=plan.bytes_per_token)
    else:
        prompt = unique_prompt(rng, number, tokens=tokens, bytes_per_token=plan.bytes_per_token)
    return {
        "model": plan.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": min(int(trace.output_tokens[number]), plan.output_tokens_max),
        "temperature": 1,
        "seed": number,
        "ignore_eos": True,
        "stream": True,
    }


def _tenant(text: str) -> Tenant:
    """`NAME=SHARE` or `NAME=SHARE:KEYFILE`."""
    name, _, rest = text.partition("=")
    share, _, file = rest.partition(":")
    try:
        weight = float(share)
        key = Path(file).read_text(encoding="utf-8").strip() if file else None
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {error}; expected NAME=SHARE or NAME=SHARE:KEYFILE"
        ) from None
    if not name or not weight > 0:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected NAME=SHARE or NAME=SHARE:KEYFILE, a share above 0"
        )
    return Tenant(name=name, share=weight, api_key=key)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    default = Replay(model="")
    parser = Parser(prog="python -m load_tests.replay", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--trace",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="formats: load_tests/data.md; repeat for archives of one service",
    )
    parser.add_argument("--url", type=loopback, required=True, help="for example http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="auto", help="what is asked for (%(default)s)")
    parser.add_argument("--rate", type=bounded(float, 1e-6, 1e5), help="mean requests per second")
    parser.add_argument(
        "--start-s", type=bounded(float, 0, 1e9), default=0.0, help="where in the trace to begin"
    )
    parser.add_argument(
        "--duration-s",
        type=bounded(float, 0.1, DURATION_MAX_S),
        help="seconds to send for; the rest of the trace is left out",
    )
    parser.add_argument("--requests-max", type=bounded(int, 1, REQUESTS_MAX), help="take so many at most")
    parser.add_argument(
        "--warm-up-s",
        type=bounded(float, 0, 3600),
        default=default.warm_up_s,
        help="seconds at the beginning that do not count",
    )
    parser.add_argument(
        "--tenant",
        type=_tenant,
        action="append",
        metavar="NAME=SHARE[:KEYFILE]",
        help="who sends what part, with the API key in a file; repeat",
    )
    parser.add_argument("--slo-ttft", type=bounded(float, 0, 3600), default=2.0, help="seconds (%(default)s)")
    parser.add_argument("--slo-tpot", type=bounded(float, 0, 3600), default=0.1, help="seconds (%(default)s)")
    parser.add_argument(
        "--slo-itl", type=bounded(float, 0, 3600), help="seconds, for an answer's longest gap"
    )
    _limits(parser, default)
    parser.add_argument(
        "--seed",
        type=int,
        default=default.seed,
        help="of prompts and, where the format leaves it open, of arrivals",
    )
    parser.add_argument(
        "--config", type=existing_file, help="what the server was started with; its hash is recorded"
    )
    parser.add_argument(
        "--results", type=Path, metavar="FILE.jsonl", help="a line for the run and each request"
    )
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="a page with tables and plots")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser.parse_args(arguments)


def _limits(parser: argparse.ArgumentParser, default: Replay) -> None:
    """Bounds on what is sent."""
    parser.add_argument(
        "--in-flight-max",
        type=bounded(int, 1, 10_000),
        default=default.in_flight_max,
        help="what would be more is not sent and counts as failed",
    )
    parser.add_argument(
        "--prompt-tokens-max",
        type=bounded(int, 1, 10**6),
        default=default.prompt_tokens_max,
        help="longer ones are cut to this",
    )
    parser.add_argument(
        "--output-tokens-max",
        type=bounded(int, 1, 10**6),
        default=default.output_tokens_max,
        help="longer ones are cut to this",
    )
    parser.add_argument(
        "--bytes-per-token",
        type=bounded(float, 0.5, 16),
        default=default.bytes_per_token,
        help="of the served model's tokenizer",
    )
    parser.add_argument(
        "--timeout", type=bounded(float, 0.1, 3600), default=default.timeout_s, help="seconds for one request"
    )


def _trace(given: argparse.Namespace) -> Trace:
    """The part of the trace that is sent; its rate is changed before it is cut in time."""
    trace = open_trace(
        given.trace,
        seed=given.seed,
        rate_per_s=given.rate,
        start_s=given.start_s,
        requests_max=given.requests_max,
    )
    trace = trace if given.duration_s is None else trace.between(0.0, given.duration_s)
    if not len(trace):
        raise TraceError("no request in the span that was asked for")
    return trace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; status 1 if nothing was answered."""
    given = _options(arguments)
    plan = Replay(
        model=given.model,
        warm_up_s=given.warm_up_s,
        in_flight_max=given.in_flight_max,
        prompt_tokens_max=given.prompt_tokens_max,
        output_tokens_max=given.output_tokens_max,
        bytes_per_token=given.bytes_per_token,
        seed=given.seed,
        timeout_s=given.timeout,
    )
    slo = Slo(ttft_s=given.slo_ttft, tpot_s=given.slo_tpot, itl_s=given.slo_itl)
    try:
        trace = _trace(given)
    except TraceError as error:
        sys.exit(f"replay: {error}")
    tenants = given.tenant or [Tenant(name="everybody", share=1.0)]
    print(f"{len(trace)} requests in {trace.duration_s:.0f} s to {given.url.url}", file=sys.stderr)
    facts = circumstances(given.config)
    done, late_s, unsent = asyncio.run(replay(given.url, trace, plan, tenants))
    measured_s = max(1e-9, trace.duration_s - plan.warm_up_s)
    head = {
        "benchmark": "replay",
        "command": spelled("replay", arguments),
        **facts,
        "url": given.url.url,
        "plan": asdict(plan),
        "slo": asdict(slo),
        "sent_late_s_max": round(max(late_s, default=0.0), 6),
        "unsent": unsent,
    }
    result = {**head, "rows": rows(done, slo, case=trace.name, seed=plan.seed, elapsed_s=measured_s)}
    if given.results:
        append_result(given.results, {"run": result})
        for one in done:
            append_result(given.results, one.line(slo))
    if given.report:
        write_report(given.report, result, done, slo)
    if given.json:
        print_json(result)
    else:
        print(_table(result["rows"]))
    return told_if_unanswered(any(one.outcome.ok for one in done), given.url.url)


def _table(found: Sequence[dict[str, Any]]) -> str:
    names = ("requests", "failures", "ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "itl_p99_s", "goodput_per_s")
    lines = [f"{'tenant':16}" + "".join(f"{name:>15}" for name in (*names, "attainment"))]
    for row in found:
        cells = ("-" if row.get(name) is None else f"{row[name]:.5g}" for name in (*names, "attainment"))
        lines.append(f"{row['tenant']:16}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
