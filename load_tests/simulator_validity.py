"""How right the simulator is: against queueing theory, and against a real vLLM engine on the CPU.

    python -m load_tests.simulator_validity --json

One engine with the default model computes on one core. Its step times are fitted on requests of known
composition, then it is sent 200 others in an open loop, and the simulator the same 200 with the fitted times.
`--trace FILE` takes arrivals and lengths from a trace in place of drawn ones.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.simulation.traffic.trace import Trace
from deployments.engine.weights import WeightsError
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.record import circumstances
from load_tests.validity.calibration import Sample, calibrate, errors, fit, open_samples
from load_tests.validity.closed_forms import closed_form_row, queues
from load_tests.validity.comparison import (
    Latencies,
    compared,
    replayed,
    simulated,
    slower,
    synthetic_slice,
    traced_slice,
    utilisation,
)
from load_tests.validity.engine import Answer, Engine, EngineError, running_engine

_CALIBRATION_REQUESTS = 40
_CALIBRATION_SEED = 1_000
"""Calibration takes seeds from here on, which no replay has."""
_START_TIMEOUT_S = 240.0
_WARM_UP = ((100, 8), (300, 8), (16, 16))
"""Prompt and answer tokens of requests before anything is measured."""

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    given = _options(arguments)
    try:
        slices = {seed: _slice(given, seed) for seed in range(given.seeds)}
        rows = [] if given.only == "engine" else _theory(given.seeds, given.queue_requests)
        if given.only != "theory":
            rows += asyncio.run(_against_engine(slices, given.rate))
    except (ValueError, EngineError, WeightsError) as error:
        sys.exit(f"simulator_validity: {error}")
    if given.json:
        command = spelled("simulator_validity", arguments)
        head = {"benchmark": "simulator_validity", "command": command, **circumstances(None)}
        print_json({**head, "rows": rows})
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m load_tests.simulator_validity", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=bounded(int, 1, 20), default=1, help="runs, from seed 0 on")
    parser.add_argument("--only", choices=("theory", "engine"), help="one of the two parts")
    parser.add_argument("--requests", type=bounded(int, 20, 5_000), default=200, help="replayed in each run")
    parser.add_argument("--rate", type=bounded(float, 0.01, 100.0), default=1.7, help="of them in a second")
    parser.add_argument("--trace", type=Path, help="a trace; run N takes its Nth slice")
    parser.add_argument(
        "--length-scale",
        type=bounded(float, 0.01, 1e4),
        default=10.0,
        help="what the trace's lengths are divided by (%(default)s)",
    )
    parser.add_argument(
        "--queue-requests", type=bounded(int, 1_000, 1_000_000), default=60_000, help="of a queue in theory"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser.parse_args(arguments)


def _slice(given: argparse.Namespace, seed: int) -> Trace:
    if given.trace is None:
        return synthetic_slice(seed=seed, requests=given.requests, rate_per_s=given.rate)
    return traced_slice(
        given.trace,
        number=seed,
        requests=given.requests,
        rate_per_s=given.rate,
        length_scale=given.length_scale,
    )


def _theory(seeds: int, requests: int) -> list[Row]:
    rows = []
    for queue in queues():
        for seed in range(seeds):
            rows.append(closed_form_row(queue, seed=seed, requests=requests))
            _tell(rows[-1])
    return rows


async def _against_engine(slices: dict[int, Trace], rate_per_s: float) -> list[Row]:
    """Replays stand between calibrations: what the machine is worth changes over minutes."""
    rows: list[Row] = []
    async with running_engine(seed=len(slices), start_timeout_s=_START_TIMEOUT_S) as engine:
        for prompt, answer in _WARM_UP:
            await engine.ask(prompt, answer)
        before = await _calibrated(engine, rate_per_s, 0)
        for seed, trace in slices.items():
            _tell(f"replaying {len(trace)} requests in {trace.duration_s:.0f} s")
            answers = await replayed(engine, trace)
            after = await _calibrated(engine, rate_per_s, seed + 1)
            for row in _rows(trace, seed, answers, [*before, *after]):
                rows.append(row)
                _tell(row)
            before = after
    return rows


async def _calibrated(engine: Engine, rate_per_s: float, number: int) -> list[Sample]:
    """Known compositions on the quiet engine, and the same kind of load as will be replayed."""
    known = await calibrate(engine)
    trace = synthetic_slice(
        seed=_CALIBRATION_SEED + number, requests=_CALIBRATION_REQUESTS, rate_per_s=rate_per_s
    )
    answers = await replayed(engine, trace)
    return [*known, *open_samples(list(zip(answers, map(int, trace.prompt_tokens), strict=True)))]


def _rows(trace: Trace, seed: int, answers: Sequence[Answer], samples: Sequence[Sample]) -> list[Row]:
    """As calibrated, and again at the speed that the machine had during the replay."""
    times, real = fit(samples), Latencies.of(answers)
    ratio = slower(answers, trace, times)
    common = {
        "requests": len(trace),
        "rate_per_s": trace.rate_per_s,
        "prompt_mean_tokens": float(trace.prompt_tokens.mean()),
        "output_mean_tokens": float(trace.output_tokens.mean()),
        "utilisation": utilisation(trace, times),
        "replay_step_ratio": ratio,
        **asdict(times),
        "fit_samples": len(samples),
        **{f"fit_{kind}_error": error for kind, error in errors(samples, times).items()},
    }
    case = f"vLLM on one core, {trace.name}"
    return [
        {
            "case": f"{case}, {name}",
            "policy": "fixed",
            "seed": seed,
            **common,
            **compared(real, simulated(trace, used)),
        }
        for name, used in (("as calibrated", times), ("at the speed of the replay", times.scaled(ratio)))
    ]


def _tell(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    exit_with(main)
