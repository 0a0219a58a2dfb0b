"""How long a look-up of near matches takes, what an entry needs of memory, and what the encoder costs.

    python -m load_tests.semantic_lookups --entries 50000 --json
    python -m load_tests.semantic_lookups --entries 1000000 --on-disk DIR --json

Entries are unit vectors around random centres, all in one partition, which is the worst case. Look-ups go
through the deployed tier (without HTTP, encoder and disk); half of them are near something that is stored.
With `--on-disk` all entries rest in a file and memory has room for none of them. `--strangers` times what one
tenant sees of another's entries: its own look-ups of texts that only the other one has stored, and of texts
that nobody has.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config.semantic_cache import (
    BreakEvenConfig,
    CategoryCacheConfig,
    ErrorContractConfig,
    SemanticTierConfig,
)
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.tier import SemanticQuery, SemanticTier
from deployments.encoder.graph_index import GraphIndex
from deployments.encoder.minilm import DIMENSIONS, MiniLm
from load_tests.arguments import bounded
from load_tests.caching.disk import on_disk
from load_tests.caching.entries import NEAR, PARTITION, Vectors, around, entry, text_of, unit
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.embeddings import to_stderr
from load_tests.record import circumstances

_ENCODED = 64
_SCAN_MAX = 8_192
_PAGE_BYTES = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill a tier, then time it."""
    parser = Parser(prog="python -m load_tests.semantic_lookups", description=__doc__.split("\n")[0])
    parser.add_argument("--entries", type=bounded(int, 100, 2_000_000), default=50_000)
    parser.add_argument("--lookups", type=bounded(int, 100, 100_000), default=2000)
    parser.add_argument(
        "--scan-max", type=bounded(int, 0, 2_000_000), default=_SCAN_MAX, help="no graph below"
    )
    parser.add_argument("--seed", type=bounded(int, 0, 2**31), default=0)
    parser.add_argument("--on-disk", type=Path, metavar="DIR", help="a folder for the file")
    parser.add_argument("--strangers", action="store_true", help="time a tenant that has stored nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)
    generator = np.random.default_rng(given.seed)
    vectors = around(generator, given.entries)
    row: dict[str, Any] = {"case": f"{given.entries}_entries", "seed": given.seed}
    if given.on_disk is not None:
        row |= {"policy": "disk", **on_disk(vectors, generator, given.lookups, folder=given.on_disk)}
    else:
        tier, filled = _filled(vectors, given.scan_max)
        to_stderr(f"{given.entries} entries in {filled['fill_s']:.1f} s")
        timed = _strangers if given.strangers else _timed
        row |= {
            "policy": "graph" if given.entries > given.scan_max else "scan",
            **filled,
            **timed(tier, vectors, generator, given.lookups),
            **_encoder_times(),
        }
    result = {
        "benchmark": "semantic_lookups",
        "command": spelled("semantic_lookups", arguments),
        **circumstances(None),
        "rows": [row],
    }
    if given.json:
        print_json(result)
    else:
        print(json.dumps(row, indent=2))
    return 0


def _filled(vectors: Vectors, scan_max: int) -> tuple[SemanticTier, dict[str, Any]]:
    category = CategoryCacheConfig(
        threshold=0.9, threshold_min=0.75, explore_share=0.0, ttl_s=1e9, share_max=1.0
    )
    config = SemanticTierConfig(
        default=category,
        entries_max=len(vectors),
        bytes_max=2**40,
        contract=ErrorContractConfig(verified=False),
        break_even=BreakEvenConfig(enabled=False),
    )
    tier = SemanticTier(
        config, dimensions=DIMENSIONS, new_index=lambda: GraphIndex(DIMENSIONS, scan_max=scan_max)
    )
    before_bytes = _resident_bytes()
    began_s = time.perf_counter()
    for number, vector in enumerate(vectors):
        tier.store.put(entry(number), vector)
    return tier, {
        "fill_s": time.perf_counter() - began_s,
        "memory_per_entry_bytes": (_resident_bytes() - before_bytes) / len(vectors),
    }


def _timed(
    tier: SemanticTier, vectors: Vectors, generator: np.random.Generator, lookups: int
) -> dict[str, Any]:
    """Look-ups, and how often the nearest entry was found for those that have one."""
    targets = generator.integers(0, len(vectors), lookups)
    near = unit(vectors[targets] + NEAR * unit(generator.normal(size=(lookups, DIMENSIONS))))
    far = unit(generator.normal(size=(lookups, DIMENSIONS)))
    times: list[float] = []
    found = 0
    for place, target in enumerate(targets):
        text = text_of(int(target))
        for vector in (near[place], far[place]):
            query = SemanticQuery(
                partition=PARTITION, text=text, vector=vector, category="chat", language="en"
            )
            began_s = time.perf_counter()
            decision = tier.look_up(query, now_s=1.0, draw=1.0)
            times.append(time.perf_counter() - began_s)
            found += decision.entry is not None and decision.entry.entry_id == f"{target:024x}"
    p50_s, p99_s = np.quantile(times, (0.5, 0.99))
    return {"lookup_p50_s": float(p50_s), "lookup_p99_s": float(p99_s), "recall_at_1": found / lookups}


def _strangers(
    tier: SemanticTier, vectors: Vectors, generator: np.random.Generator, lookups: int
) -> dict[str, Any]:
    """What a tenant can tell from times: the same requests, of texts that another has stored or nobody has.

    `told_apart_ratio` is the chance that the slower of one of each is the stored one: 0.5 tells nothing.
    """
    stranger = Partition("stranger", "model", "scope")
    tier.store.put(replace(entry(len(vectors)), partition=stranger, entry_id="own"), vectors[0])
    targets = generator.integers(1, len(vectors), lookups)
    texts = {True: vectors[targets], False: unit(generator.normal(size=(lookups, DIMENSIONS)))}
    times: dict[bool, list[float]] = {True: [], False: []}
    for place, target in enumerate(targets):
        order = (True, False) if place % 2 else (False, True)
        for stored in order:
            query = SemanticQuery(
                partition=stranger,
                text=text_of(int(target)),
                vector=texts[stored][place],
                category="chat",
                language="en",
            )
            began_s = time.perf_counter()
            decision = tier.look_up(query, now_s=1.0, draw=1.0)
            times[stored].append(time.perf_counter() - began_s)
            if decision.entry is not None:
                raise AssertionError("a tenant got another one's entry")
    ranks = np.argsort(np.argsort(times[True] + times[False]))[:lookups] + 1
    told_apart = (float(ranks.sum()) - lookups * (lookups + 1) / 2) / (lookups * lookups)
    return {
        "stored_elsewhere_p50_s": float(np.median(times[True])),
        "stored_nowhere_p50_s": float(np.median(times[False])),
        "told_apart_ratio": told_apart,
        "told_apart_standard_error_ratio": float(np.sqrt((2 * lookups + 1) / (12 * lookups * lookups))),
    }


def _encoder_times() -> dict[str, Any]:
    model = MiniLm(threads=1)
    times: list[float] = []
    for number in range(_ENCODED):
        began_s = time.perf_counter()
        model.encode([text_of(number)])
        times.append(time.perf_counter() - began_s)
    p50_s, p99_s = np.quantile(times, (0.5, 0.99))
    return {"encode_p50_s": float(p50_s), "encode_p99_s": float(p99_s)}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


if __name__ == "__main__":
    exit_with(main)
