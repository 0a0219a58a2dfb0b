"""`tidemill bench`: a short load against a running gateway, and what came of it.

The load and the client are those of `load_tests`, which also has open loops, traces, tenants and other
gateways to compare with (docs/benchmarks.md).
"""

import asyncio
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from load_tests.client import Outcome, parse_target
from load_tests.closed_loop import ClosedLoad, run_closed
from load_tests.record import circumstances
from load_tests.summary import as_row, summarise
from operators.cli.console import CliError
from operators.cli.gateway_client import api_key, first_model, gateway_url

_LATENCIES = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "itl_s": "gap between tokens",
    "e2e_s": "whole answer",
}
_HEADERS = ("x-tidemill-path", "x-tidemill-pool", "x-tidemill-cache")


def bench(load: ClosedLoad, *, url: str | None, json_output: bool) -> int:
    """Send a load and print rates, latencies and where requests went.

    Args:
        load: what is sent; an empty model means the gateway's first one.
        url: another gateway than the one on this machine.
        json_output: one JSON object in place of tables.

    Returns:
        The exit status: 1 if a request failed.

    Raises:
        CliError: nothing runs here, the gateway refused, or it is on another machine.
    """
    base_url = gateway_url(url, os.environ)
    key = api_key(os.environ)
    try:
        target = parse_target(base_url)
    except ValueError as error:
        raise CliError(f"{error}; of a remote one, forward its port to this machine") from error
    load = load if load.model else ClosedLoad(**{**asdict(load), "model": first_model(base_url, key)})
    outcomes, elapsed_s = asyncio.run(run_closed(target, load, api_key=key))
    found = summarise(outcomes, elapsed_s=elapsed_s)
    places = _places(outcomes)
    if json_output:
        row = {
            "case": "closed_loop",
            "policy": "gateway",
            "seed": load.seed,
            **as_row(found),
            "places": places,
        }
        head = {
            "benchmark": "bench",
            "command": shlex.join(["tidemill", *sys.argv[1:]]),
            **circumstances(None),
            "url": base_url,
        }
        print(json.dumps({**head, "load": asdict(load), "rows": [row]}))
    else:
        _show(Console(), load, found, places)
    return int(bool(found["failures"]))


def _places(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """How many answers came by which path, from which pool, with what outcome of the cache."""
    return {
        name.removeprefix("x-tidemill-"): dict(
            Counter(outcome.headers.get(name, "none") for outcome in outcomes if outcome.ok)
        )
        for name in _HEADERS
    }


def _show(
    console: Console, load: ClosedLoad, found: dict[str, Any], places: dict[str, dict[str, int]]
) -> None:
    kind = f"streams of {load.output_tokens} tokens" if load.stream else "whole answers"
    console.print(
        f"{load.model}: {kind}, {load.concurrency} at a time, prompts of {load.prompt_tokens} tokens; "
        f"{found['completed']} of {found['requests']} answered in {found['elapsed_s']:.1f} s",
        highlight=False,
    )
    rates = f"{found['requests_per_s']:.1f} requests/s, {found['tokens_per_s']:.0f} tokens/s"
    console.print(rates, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("milliseconds")
    for title in ("mean", "p50", "p90", "p99"):
        table.add_column(title, justify="right")
    for name, words in _LATENCIES.items():
        if found[name] is not None:
            cells = (f"{1000 * found[name][title]:.2f}" for title in ("mean", "p50", "p90", "p99"))
            table.add_row(words, *cells)
    console.print(table)
    for name, counts in places.items():
        told = ", ".join(f"{place} {count}" for place, count in sorted(counts.items()))
        console.print(f"{name}: {told or 'nothing answered'}", highlight=False)
    if found["failures"]:
        told = ", ".join(f"{kind} {count}" for kind, count in sorted(found["failures"].items()))
        console.print(f"failed: {told}", highlight=False, style="red")
