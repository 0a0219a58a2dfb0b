"""How fast the simulator is: requests and decode-step tokens per second of wall time, on one core.

    python -m load_tests.simulator_speed --json

Two seeded traces on eight replicas behind the live router's policy: short answers, where requests are
the work, and full engines with long answers, where tokens are. `--trace FILE` adds a trace of your own.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.config import parse_config
from cluster.simulation.run import simulate
from cluster.simulation.scenario import Scenario
from cluster.simulation.traffic.open import open_trace
from cluster.simulation.traffic.synthetic import LengthShape, steady
from cluster.simulation.traffic.trace import Trace, TraceError
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.record import circumstances

_FLEET = """
models: {m: {source: s, architecture: llama-3.1-8b}}
pools: {h100: {model: m, gpu_type: H100, replicas: {min: 8, max: 8}, max_concurrent_requests: 1024}}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = Parser(prog="python -m load_tests.simulator_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=bounded(int, 1, 20), default=3)
    parser.add_argument("--trace", type=Path, help="a trace of your own")
    parser.add_argument("--rate", type=bounded(float, 1e-3, 1e6), help="its mean requests per second")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)
    try:
        cases = _cases(given.trace, given.rate)
    except TraceError as error:
        parser.error(str(error))
    rows = []
    for number in range(given.rounds):
        for name, trace in cases.items():
            rows.append({"case": name, "policy": "fixed", "seed": number, **_timed(trace, number)})
            print(rows[-1], file=sys.stderr, flush=True)
    if given.json:
        command = spelled("simulator_speed", arguments)
        result = {"benchmark": "simulator_speed", "command": command, **circumstances(None), "rows": rows}
        print_json(result)
    return 0


def _cases(path: Path | None, rate_per_s: float | None) -> dict[str, Trace]:
    cases = {
        "short answers": steady(
            rate_per_s=600.0,
            requests=60_000,
            seed=0,
            prompt=LengthShape(median=150.0, sigma=0.5),
            answer=LengthShape(median=8.0, sigma=0.5),
        ),
        "full engines": steady(
            rate_per_s=60.0,
            requests=8_000,
            seed=0,
            prompt=LengthShape(median=200.0, sigma=0.5),
            answer=LengthShape(median=900.0, sigma=0.4),
        ),
    }
    if path is not None:
        cases[path.name] = open_trace((path,), rate_per_s=rate_per_s)
    return cases


def _timed(trace: Trace, seed: int) -> dict[str, Any]:
    scenario = Scenario(config=parse_config(_FLEET), traces={"m": trace}, policy="fixed", seed=seed)
    began_s = time.process_time()
    report = simulate(scenario)
    took_s = time.process_time() - began_s
    return {
        "requests_per_s": report.completed / took_s,
        "tokens_per_s": report.output_tokens / took_s,
        "events": report.events,
        "wall_s": took_s,
        "simulated_s": report.duration_s,
    }


if __name__ == "__main__":
    exit_with(main)
