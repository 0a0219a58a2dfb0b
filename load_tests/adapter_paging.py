"""Adapter-paging policies side by side: the same requests, utilities and judgements for all of them.

    python -m load_tests.adapter_paging --policies all --cases all --seeds 20 --json

Regret is per request, against the best unchanging set in hindsight and against a cache that knows the
future; both know the true utilities. Prices of page-ins are taken off, planned ones' too. It runs the
functions of the live pager (`cluster/policy/paging/core.py`).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cluster.config.paging import PagingPolicyName
from cluster.simulation.processes import in_turn, worker_processes
from load_tests.adapter_decisions import decision_rows
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, names_of, print_json, spelled
from load_tests.paging.cases import CASES, POLICIES, entries
from load_tests.paging.oracles import belady_value, effective, static_values
from load_tests.paging.report import recovery_requests, slopes, summary, table
from load_tests.paging.run import Outcome, run
from load_tests.paging.world import Numbers, world
from load_tests.record import circumstances

_SLOPE_CASE = "stationary_c0.3"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m load_tests.adapter_paging", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--policies", default="all", help=f"all, or names with commas: {', '.join(POLICIES)}")
    parser.add_argument(
        "--cases", default="all", help=f"all, or names with commas: {', '.join(CASES)}".replace("%", "%%")
    )
    parser.add_argument("--seeds", type=bounded(int, 1, 1000), default=20, help="how many")
    parser.add_argument(
        "--first-seed", type=bounded(int, 0, 1_000_000), default=0, help="of them; 100 and more were tuned on"
    )
    parser.add_argument("--jobs", type=bounded(int, 1, 64), default=1, help="processes")
    parser.add_argument(
        "--decisions",
        type=bounded(int, 20, 2000),
        metavar="N",
        help="instead: what deciding about N adapters takes, the router's choice and plans afresh included",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)
    try:
        given.policies = names_of(given.policies, POLICIES, "policy")
        given.cases = names_of(given.cases, list(CASES), "case")
    except ValueError as error:
        parser.error(str(error))
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    given = _options(arguments)
    if given.decisions:
        return _tell(given, arguments, rows=decision_rows(given.decisions, given.first_seed))
    policies = tuple(policy for policy in POLICIES if policy in given.policies)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    compare = partial(_run_case, policies=policies, seeds=seeds)
    if given.jobs == 1:
        results = [compare(name) for name in given.cases]
    else:
        with worker_processes(given.jobs) as pool:
            results = list(in_turn(pool, compare, given.cases))
    rows = [row for result in results for row in result.rows]
    return _tell(
        given,
        arguments,
        slopes=slopes(rows, next((r.cumulated for r in results if r.name == _SLOPE_CASE), {})),
        recovery_requests={result.name: result.recovery for result in results if result.recovery},
        summary=summary(rows),
        rows=rows,
    )


def _tell(given: argparse.Namespace, arguments: Sequence[str] | None, **found: Any) -> int:
    """Print what was measured."""
    if given.json:
        command = spelled("adapter_paging", arguments)
        result = {"benchmark": "adapter_paging", "command": command, **circumstances(None), **found}
        print_json(result)
    elif "summary" in found:
        print(table(found["summary"]))
    else:
        for row in found["rows"]:
            print(row)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseResult:
    name: str
    rows: list[dict[str, Any]]
    cumulated: dict[str, Numbers]
    """Regret against the static oracle after every request, mean over seeds."""
    recovery: dict[str, float]


def _run_case(name: str, policies: tuple[PagingPolicyName, ...], seeds: range) -> _CaseResult:
    case, kind = CASES[name]
    began_s = time.monotonic()
    worlds = [world(case, seed) for seed in seeds]
    static = [static_values(case, found) for found in worlds]
    belady = [belady_value(case, found) for found in worlds]
    best = np.mean([effective(found).max(axis=1) for found in worlds], axis=0)
    result = _CaseResult(name=name, rows=[], cumulated={}, recovery={})
    for entry in entries(kind, policies):
        outcomes = [run(case, found, entry.config(case)) for found in worlds]
        for seed, found, fixed, ahead in zip(seeds, outcomes, static, belady, strict=True):
            row = {"case": name, "policy": entry.policy, "router": entry.router, "seed": seed}
            result.rows.append(row | _figures(found, float(fixed.mean()), ahead))
        net = np.mean([found.net for found in outcomes], axis=0)
        label = f"{entry.policy}/{entry.router}"
        result.cumulated[label] = np.cumsum(np.mean(static, axis=0) - net)
        back = recovery_requests(best - net, worlds[0].shifts)
        if back is not None:
            result.recovery[label] = back
    print(f"{name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
    return result


def _figures(found: Outcome, static: float, belady: float) -> dict[str, float]:
    net = float(found.net.mean())
    return {
        "regret_per_request": static - net,
        "regret_belady_per_request": belady - net,
        "net_utility_per_request": net,
        "page_ins_per_1000": 1000 * found.page_ins / len(found.net),
        "forced_per_1000": 1000 * found.forced / len(found.net),
        "decision_p50_s": float(np.median(found.decision_s)),
    }


if __name__ == "__main__":
    exit_with(main)
