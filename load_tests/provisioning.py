"""Provisioning policies side by side: the same fleet, the same traffic, the same simulated engines.

    python -m load_tests.provisioning --fleet load_tests/fleets/mixed.yaml --trace FILE --seeds 10

Every policy starts from the fleet's initial sizes; `static_peak` stays there. Energy and cost count until the
last arrival; a request that failed, was rejected or missed TTFT or TPOT misses the SLO.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.config import ConfigError, load_config
from cluster.policy.provisioning.policies import POLICIES
from cluster.simulation.experiment import Case, Traffic, figures, run_cases, spread, traffic_files
from cluster.simulation.solver_output import solver_output_on_stderr
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, names_of, print_json, spelled
from load_tests.record import circumstances

_SHOWN = (
    "energy_j",
    "cost_usd",
    "slo_attainment",
    "p99_ttft_s",
    "p95_tpot_s",
    "scale_events",
    "direction_changes",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    parser = Parser(prog="python -m load_tests.provisioning", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--fleet", type=Path, required=True, help="configuration with the pools to compare on"
    )
    parser.add_argument(
        "--trace",
        action="append",
        required=True,
        metavar="[MODEL=]FILE",
        help="formats: load_tests/data.md; repeat for models or archives",
    )
    parser.add_argument(
        "--policies", default="all", help=f"all, or names with commas: {', '.join(POLICIES)}; also fixed"
    )
    parser.add_argument("--seeds", type=bounded(int, 1, 1000), default=3, help="runs, from seed 0 on")
    parser.add_argument(
        "--rate", type=bounded(float, 1e-6, 1e6), help="mean requests per second, in place of the trace's own"
    )
    parser.add_argument(
        "--start-s", type=bounded(float, 0, 1e9), default=0.0, help="where in the trace to begin"
    )
    parser.add_argument("--duration-s", type=bounded(float, 1, 1e9), help="how much of the trace to take")
    parser.add_argument(
        "--requests-max", type=bounded(int, 1, 50_000_000), help="take so many requests at most"
    )
    parser.add_argument("--jobs", type=bounded(int, 1, 64), help="processes; all cores if omitted")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)
    try:
        with solver_output_on_stderr():
            rows = _rows(given)
    except (ConfigError, ValueError, OSError) as error:
        parser.error(str(error))
    if given.json:
        result = {
            "benchmark": "provisioning",
            "command": spelled("provisioning", arguments),
            **circumstances(given.fleet),
            "rows": rows,
        }
        print_json(result)
    else:
        print(_table(rows))
    return 0


def _rows(given: argparse.Namespace) -> list[dict[str, Any]]:
    config = load_config(given.fleet)
    everything = given.policies == "all"  # `fixed` is for who asks for it: it is static_peak without a reason
    names = list(POLICIES) if everything else names_of(given.policies, (*POLICIES, "fixed"), "policy")
    traffic = Traffic(
        files=traffic_files(config, given.trace),
        rate_per_s=given.rate,
        start_s=given.start_s,
        duration_s=given.duration_s,
        requests_max=given.requests_max,
    )
    cases = [
        Case(config=config, traffic=traffic, policy=name, seed=seed)
        for seed in range(given.seeds)
        for name in names
    ]
    case = "+".join(Path(text.partition("=")[2] or text).name for text in given.trace)
    began_s = time.monotonic()
    rows = []
    for done, report in run_cases(cases, given.jobs):
        rows.append({"case": case, "policy": done.policy, "seed": done.seed, **figures(report)})
        print(
            f"[{len(rows)}/{len(cases)}, {time.monotonic() - began_s:.0f} s] {done.policy} seed {done.seed}: "
            f"{report.energy_j / 3.6e6:.2f} kWh, SLO {report.slo_attainment:.4f}",
            file=sys.stderr,
            flush=True,
        )
    return sorted(rows, key=lambda row: (names.index(row["policy"]), row["seed"]))


def _table(rows: list[dict[str, Any]]) -> str:
    """Means with standard deviations over the seeds, energy also relative to static_peak's."""
    by_policy: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], []).append(row)
    peak = {row["seed"]: row["energy_j"] for row in by_policy.get("static_peak", [])}
    lines = [f"{'policy':18}" + "".join(f"{name:>24}" for name in _SHOWN) + f"{'energy/static_peak':>22}"]
    for policy, runs in by_policy.items():
        cells = [f"{policy:18}"]
        for name in _SHOWN:
            mean, deviation = spread([run[name] for run in runs])
            cells.append(f"{mean:>14.5g} ±{deviation:>8.2g}")
        ratios = [run["energy_j"] / peak[run["seed"]] for run in runs if peak.get(run["seed"])]
        mean, deviation = spread(ratios)
        cells.append(f"{mean:>12.3f} ±{deviation:>8.2g}" if ratios else f"{'-':>12}")
        lines.append("".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
