"""Hurts a cluster of simulated engines in one way after another while it serves.

    python -m load_tests.chaos --json
    python -m load_tests.chaos --cases kill_decode,freeze_decode --rate 30 --seconds 20

It starts a cluster of its own, on ports of its own. Every case has a few seconds of load before the fault and
the rest after it; every answer is compared word for word with that of an undisturbed engine. `failing_s` is
how long after the fault the last request failed, `recovery_s` when the cluster had all its parts again.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from load_tests.arguments import bounded
from load_tests.chaos.cases import FAULTS
from load_tests.chaos.cluster import ChaosCluster, ClusterError, waited_s
from load_tests.chaos.faults import Fault, NoVictimError
from load_tests.chaos.kinds import KINDS
from load_tests.chaos.load import SteadyLoad, judged
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.record import circumstances

_BEFORE_S = 4.0
_QUIET_S = 2.0
_RECOVERY_MAX_S = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite."""
    names = [fault.name for fault in FAULTS]
    parser = Parser(prog="python -m load_tests.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", default="all", help=f"all, or names with commas: {', '.join(names)}")
    parser.add_argument("--rate", type=bounded(float, 0.1, 1000), default=20.0, help="requests per second")
    parser.add_argument(
        "--seconds", type=bounded(float, 2, 600), default=12.0, help="of load after each fault"
    )
    parser.add_argument("--seed", type=bounded(int, 0, 1_000_000), default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(arguments)
    wanted = names if options.cases == "all" else options.cases.split(",")
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        parser.error(f"unknown cases: {', '.join(unknown)}; there are: {', '.join(names)}")
    try:
        rows = _run([fault for fault in FAULTS if fault.name in wanted], options)
    except ClusterError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 1
    result = {
        "benchmark": "chaos",
        "command": spelled("chaos", arguments),
        **circumstances(None),
        "rows": rows,
    }
    if options.json:
        print_json(result)
    else:
        print(_table(rows))
    return 0


def _run(faults: Sequence[Fault], options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cluster: ChaosCluster | None = None
    kind = ""
    try:
        for number, fault in enumerate(faults):
            if cluster is not None and fault.kind != kind:
                cluster.stop()
                cluster = None
            if cluster is None:
                kind = fault.kind
                print(f"starting a cluster: {kind}", file=sys.stderr, flush=True)
                cluster = KINDS[kind]()
                cluster.start()
            rows.append(_case(cluster, fault, options, seed=options.seed * 1000 + number))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if fault.ends_cluster or not cluster.alive:
                cluster.stop()
                cluster = None
    finally:
        if cluster is not None:
            cluster.stop()
    return rows


def _case(cluster: ChaosCluster, fault: Fault, options: argparse.Namespace, *, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {"case": fault.name, "policy": "none", "seed": seed}
    load = SteadyLoad(cluster.url, options.rate, seed, models=cluster.models)
    load.start()
    time.sleep(_BEFORE_S)
    fault_at_s = time.monotonic()
    try:
        recovered = fault.hurt(cluster)
    except NoVictimError as error:
        load.stop()
        return {**row, "not_run": str(error)}
    limit_s = _RECOVERY_MAX_S if fault.recovers else options.seconds
    recovery_s = waited_s(recovered, timeout_s=limit_s)
    time.sleep(max(0.0, fault_at_s + options.seconds - time.monotonic()))
    seen = load.stop()
    if fault.heal is not None:
        fault.heal(cluster)
    time.sleep(_QUIET_S)
    return {
        **row,
        "recovery_s": None if recovery_s is None else round(recovery_s, 2),
        **judged(seen, fault_at_s),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    columns = ("failed", "requests", "failing_s", "recovery_s", "longest_gap_s", "p95_ttft_after_s")
    lines = [f"{'case':24}" + "".join(f"{name:>18}" for name in columns) + "  what clients saw"]
    for row in rows:
        said = row.get("not_run") or ", ".join(f"{n} {kind}" for kind, n in row["kinds"].items())
        lines.append(
            f"{row['case']:24}" + "".join(f"{row.get(name)!s:>18}" for name in columns) + f"  {said}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
