"""Model-routing policies on tables of many models' answers, and how long a decision takes.

    python -m load_tests.model_routing --table rewards.jsonl.gz --format paretobandit --seeds 5 --json
    python -m load_tests.model_routing --decision-time --json

Tables and where to get them: load_tests/data.md. `quality` is 0..1 as judged by the table's authors;
`cost_usd` and `energy_j` are means per request; `regret` is summed over the requests.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from cluster.config.model_routing import ModelPolicyName
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, names_of, print_json, spelled
from load_tests.model_tables.cascade_curve import cascade
from load_tests.model_tables.cases import CASES, POLICIES, Row, Trial, trials
from load_tests.model_tables.decision_time import decision_times
from load_tests.model_tables.formats import FORMATS, read_table
from load_tests.model_tables.frontier import frontier, order
from load_tests.model_tables.phases import phases
from load_tests.model_tables.text_features import FeatureKind, guessed_categories
from load_tests.record import circumstances

_ALL_CASES: dict[str, Callable[[Trial, Sequence[ModelPolicyName]], Iterator[Row]]] = {
    **CASES,
    "phases": phases,
    "frontier": frontier,
    "order": order,
    "cascade": cascade,
}
_CASES_BY_FORMAT = {
    "paretobandit": ("offline", "online", "budgets", "phases"),
    "mmlu_pro": ("frontier", "order"),
    "llmrouter": ("offline", "online"),
    "routellm": ("cascade",),
}
_SHOWN = ("quality", "cost_usd", "energy_j", "regret", "p50_s", "p99_s")
_VARIED = (
    "start",
    "cost_weight",
    "energy_weight",
    "budget_usd",
    "budget_j",
    "judge_error",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.decision_time and (given.table is None or given.format is None):
        parser.error("--table and --format are needed, or --decision-time")
    try:
        policies = _policies(given.policies, given.decision_time)
        facts, rows = (
            _decision_times(policies, given.seeds) if given.decision_time else _table_rows(given, policies)
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if given.json:
        command = spelled("model_routing", arguments)
        facts = {"benchmark": "model_routing", "command": command, **circumstances(given.table), **facts}
        print_json({**facts, "rows": rows})
    else:
        print(_summary(rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m load_tests.model_routing", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--table", type=Path, help="file of answers")
    parser.add_argument("--format", choices=sorted(FORMATS), help="of the file (load_tests/data.md)")
    parser.add_argument("--questions", type=Path, help="mmlu_pro: the questions, if not beside the table")
    parser.add_argument("--tokens", type=Path, help="mmlu_pro: the output tokens, if not beside the table")
    parser.add_argument("--models", type=Path, help="llmrouter: the list of models, if not beside the table")
    parser.add_argument("--policies", default="all", help=f"all, or names with commas: {', '.join(POLICIES)}")
    parser.add_argument("--cases", help=f"of {', '.join(_ALL_CASES)}, with commas; the format's if omitted")
    parser.add_argument("--seeds", type=bounded(int, 1, 1000), default=5, help="how many")
    parser.add_argument("--first-seed", type=bounded(int, 0, 1_000_000), default=0, help="of them")
    parser.add_argument(
        "--rows-max", type=bounded(int, 10, 10_000_000), help="take a seeded part of the table"
    )
    parser.add_argument(
        "--stream",
        choices=("test", "whole"),
        default="test",
        help="what online and budgets lead a policy along that starts from nothing: the half that others are "
        "tested on, or the whole table (frontier and order always do)",
    )
    parser.add_argument(
        "--features", choices=get_args(FeatureKind), default="minilm", help="what policies see of a prompt"
    )
    parser.add_argument(
        "--categories",
        choices=("none", "table", "classifier"),
        default="none",
        help="what policies are told of a prompt's category: nothing, the authors', or what the shipped "
        "classifier says (category_map and pheromone are told the authors' if nothing else)",
    )
    parser.add_argument("--embedding-cache", type=Path, help="file that keeps embeddings between runs")
    parser.add_argument("--decision-time", action="store_true", help="time decisions; needs no table")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def _policies(text: str, decision_time: bool) -> list[ModelPolicyName]:
    known: tuple[ModelPolicyName, ...] = ("static", *POLICIES) if decision_time else POLICIES
    return cast("list[ModelPolicyName]", names_of(text, known, "policy"))


def _decision_times(policies: list[ModelPolicyName], seeds: int) -> tuple[Row, list[Row]]:
    return {}, [found for seed in range(seeds) for found in decision_times(policies, seed)]


def _table_rows(given: argparse.Namespace, policies: list[ModelPolicyName]) -> tuple[Row, list[Row]]:
    cases = names_of(given.cases, list(_ALL_CASES), "case") if given.cases else _CASES_BY_FORMAT[given.format]
    companions = {name: getattr(given, name) for name in ("questions", "tokens", "models")}
    table = read_table(given.table, given.format, companions)
    if given.rows_max is not None and given.rows_max < len(table):
        table = table.of_rows(np.random.default_rng(0).permutation(len(table))[: given.rows_max])
    began_s = time.monotonic()
    rows: list[Row] = []
    told = given.categories != "none"
    if given.categories == "classifier":
        table = guessed_categories(table, given.embedding_cache)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    for trial in trials(
        table, seeds, given.features, given.embedding_cache, with_category=told, stream=given.stream
    ):
        for case in cases:
            rows += _ALL_CASES[case](trial, policies)
            spent_s = time.monotonic() - began_s
            print(
                f"[{spent_s:.0f} s] seed {trial.seed}: {case}, {len(rows)} rows", file=sys.stderr, flush=True
            )
    facts = {
        "format": given.format,
        "requests": len(table),
        "models": list(table.models),
        "features": given.features,
        "categories": given.categories,
        "stream": given.stream,
        "energy_source": table.energy_source,
        "cost_source": table.cost_source,
    }
    return facts, rows


def _summary(rows: list[dict[str, Any]]) -> str:
    """Means with standard deviations over the seeds."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for found in rows:
        varied = [f"{name}={found[name]:.3g}" for name in _VARIED if isinstance(found.get(name), float)]
        start = [str(found["start"])] if "start" in found else []
        part = [f"{name}={found[name]}" for name in ("point", "part") if name in found]
        # budgets differ a little between the seeds' halves; the case already names the step
        varied = [text for text in varied if not text.startswith("budget_")]
        key = (found["case"], found["policy"], " ".join([*start, *varied, *part]))
        groups.setdefault(key, []).append(found)
    shown = [name for name in _SHOWN if any(name in found for found in rows)]
    lines = [f"{'case':24}{'policy':38}{'':30}" + "".join(f"{name:>24}" for name in shown)]
    for (case, policy, varied_text), runs in groups.items():
        cells = []
        for name in shown:
            values = [run[name] for run in runs if name in run]
            cells.append(f"{np.mean(values):>14.5g} ±{np.std(values):>8.2g}" if values else " " * 24)
        lines.append(f"{case:24}{policy:38}{varied_text:30}" + "".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
