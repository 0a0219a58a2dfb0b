"""Hits and wrong hits of the semantic cache's policies on labelled streams, with the real encoder.

    python -m load_tests.semantic_cache --pairs FILE... --format qqp|banking77|clinc150 \
        --policies verified category global gptcache vcache --delta .05 --orders 5 --json

Runs the functions that the deployment runs. Several files make one heterogeneous workload; `--format` is
then given once for all or once for each. `verified` is the deployed policy, which serves only while
evidence bounds its errors. `category` and `global` are curves of hits against errors, of that policy and of
one threshold for everything, counted on the second half of a stream. Files: load_tests/data.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from load_tests.arguments import bounded
from load_tests.caching.baselines import GPTCACHE_THRESHOLD, CachePolicy, PerEntry, Static, Vectors, judge_of
from load_tests.caching.curves import curve_rows, ratio_rows
from load_tests.caching.known_cosines import KnownCosines, KnownIndex
from load_tests.caching.stream_replay import TierPolicy, replay, tier_config
from load_tests.caching.streams import Prompt, in_order, sample
from load_tests.command import Parser, exit_with, names_of, print_json, spelled
from load_tests.embeddings import embed, to_stderr
from load_tests.record import circumstances

POLICIES = ("verified", "category", "global", "gptcache", "vcache")
_FORMATS = ("qqp", "banking77", "clinc150")


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay all policies over all orders."""
    given = _options(arguments)
    try:
        prompts, vectors = read_workload(given)
    except (ValueError, OSError) as error:
        sys.exit(f"semantic_cache: {error}")
    case = given.format[0] if len(set(given.format)) == 1 else "mixed"
    rows: list[dict[str, Any]] = []
    curves = bool({"category", "global"} & set(given.policies))
    known = KnownCosines(vectors) if curves or given.known_cosines else None
    for seed in range(given.first_order, given.first_order + given.orders):
        order = in_order(prompts, seed)
        rows += [
            {"case": case, **row} for row in _replayed(given, prompts, vectors, order, seed, known=known)
        ]
        if curves and known is not None:
            rows += [{"case": case, **row} for row in _curves(given, prompts, known, order, seed)]
        to_stderr(f"order {seed} is done")
    result = {
        "benchmark": "semantic_cache",
        "command": spelled("semantic_cache", arguments),
        **circumstances(None),
        "prompts": len(prompts),
        "categories": sorted({prompt.category for prompt in prompts}),
        "answers": len({prompt.answer for prompt in prompts}),
        "rows": rows,
    }
    if given.json:
        print_json(result)
    else:
        print(_as_text(rows))
    return 0


def read_workload(given: argparse.Namespace) -> tuple[list[Prompt], Vectors]:
    """The prompts of all files with their vectors; a text that stands in several files counts once."""
    formats = given.format * len(given.pairs) if len(given.format) == 1 else given.format
    prompts: dict[str, Prompt] = {}
    for file, form in zip(given.pairs, formats, strict=True):
        found = sample(file, form, texts_max=given.texts, seed=given.sample_seed, domains=given.domains)
        prompts |= {prompt.text: prompt for prompt in found}
    kept = list(prompts.values())
    return kept, embed([prompt.text for prompt in kept], given.cache)


def _replayed(
    given: argparse.Namespace,
    prompts: list[Prompt],
    vectors: Vectors,
    order: list[int],
    seed: int,
    *,
    known: KnownCosines | None,
) -> list[dict[str, Any]]:
    new_index = (lambda: KnownIndex(known)) if given.known_cosines and known is not None else None
    judge = judge_of(prompts, error_rate=given.judge_error, seed=seed)
    policies: list[tuple[str, CachePolicy]] = []
    for delta in given.delta:
        if "verified" in given.policies:
            config = tier_config(prompts, delta=delta, explore=given.explore)
            verified = TierPolicy(prompts, vectors, config, judge=judge, seed=seed, new_index=new_index)
            policies.append((f"verified_{delta:g}", verified))
        if "vcache" in given.policies:
            policies.append((f"vcache_{delta:g}", PerEntry(vectors, judge, delta=delta, seed=seed)))
    if "gptcache" in given.policies:
        policies.append(("gptcache", Static(vectors, GPTCACHE_THRESHOLD)))
    rows: list[dict[str, Any]] = []
    for name, policy in policies:
        outcome = replay(policy, prompts, order)
        rows.append({"policy": name, "seed": seed, **outcome.metrics()})
        if given.by_category:
            rows += [
                {"policy": name, "seed": seed, "category": category, **part.metrics()}
                for category, part in outcome.parts.items()
            ]
    return rows


def _curves(
    given: argparse.Namespace, prompts: list[Prompt], known: KnownCosines, order: list[int], seed: int
) -> list[dict[str, Any]]:
    judge = judge_of(prompts, error_rate=given.judge_error, seed=seed)
    curves = curve_rows(prompts, known, order, judge=judge, explore=given.explore, seed=seed)
    rows = [{"seed": seed, **row} for row in curves if row["policy"].split("_")[0] in given.policies]
    return [*rows, *({"seed": seed, **row} for row in ratio_rows(curves, given.delta))]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m load_tests.semantic_cache", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--pairs", type=Path, nargs="+", required=True, help="labelled prompts (load_tests/data.md)"
    )
    parser.add_argument(
        "--format", nargs="+", choices=_FORMATS, required=True, help="of all files, or of each"
    )
    parser.add_argument("--domains", type=Path, help="CLINC150's domains.json.gz: its categories")
    parser.add_argument(
        "--policies",
        nargs="+",
        default=["all"],
        help=f"all, or names with spaces or commas: {', '.join(POLICIES)}",
    )
    parser.add_argument(
        "--delta",
        type=bounded(float, 0.001, 0.5),
        nargs="+",
        default=[0.05],
        help="shares of wrong hits that are allowed",
    )
    parser.add_argument("--orders", type=bounded(int, 1, 200), default=5, help="orders of arrival")
    parser.add_argument(
        "--first-order", type=bounded(int, 0, 10_000), default=0, help="seed of the first of them"
    )
    parser.add_argument(
        "--known-cosines", action="store_true", help="compute them once; look-up times then mean nothing"
    )
    parser.add_argument("--texts", type=bounded(int, 10, 100_000), default=1200, help="prompts of each file")
    parser.add_argument(
        "--explore",
        type=bounded(float, 0, 1),
        default=0.02,
        help="share of hits that is answered fresh and judged",
    )
    parser.add_argument(
        "--judge-error", type=bounded(float, 0, 0.5), default=0.0, help="share of wrong judgements"
    )
    parser.add_argument(
        "--sample-seed", type=bounded(int, 0, 2**31), default=0, help="of the prompts that are taken"
    )
    parser.add_argument("--by-category", action="store_true", help="rows for each category as well")
    parser.add_argument("--cache", type=Path, help="file that keeps embeddings between runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)
    try:
        given.policies = names_of(given.policies, POLICIES, "policy")
    except ValueError as error:
        parser.error(str(error))
    if len(given.format) not in (1, len(given.pairs)):
        parser.error(
            f"{len(given.pairs)} files and {len(given.format)} formats; give one, or one for each file"
        )
    return given


def _as_text(rows: Sequence[dict[str, Any]]) -> str:
    lines: list[str] = []
    for policy in dict.fromkeys(row["policy"] for row in rows if "category" not in row):
        mine = [row for row in rows if row["policy"] == policy and "category" not in row]
        names = [name for name, value in mine[0].items() if isinstance(value, float)]
        means = (f"{name} {np.mean([row[name] for row in mine]):.4g}" for name in names)
        lines.append(f"{policy:24} {', '.join(means)}")
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
