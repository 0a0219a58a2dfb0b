"""How long a look-up of near matches takes, what an entry needs of memory, and what the encoder costs.

    python -m load_tests.semantic_lookups --entries 50000 --json

Entries are unit vectors around random centres, all in one partition, which is the worst case. Look-ups go
through the deployed tier (without HTTP, encoder and disk); half of them are near something that is stored.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.config.semantic_cache import (
    BreakEvenConfig,
    CategoryCacheConfig,
    ErrorContractConfig,
    SemanticTierConfig,
)
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import StoredAnswer
from cluster.policy.semantic_cache.tier import SemanticQuery, SemanticTier
from deployments.encoder.graph_index import GraphIndex
from deployments.encoder.minilm import DIMENSIONS, MiniLm
from load_tests.arguments import bounded
from load_tests.embeddings import to_stderr
from load_tests.record import circumstances

_PARTITION = Partition("tenant", "model", "scope")
_CENTRES = 2000
_SPREAD = 0.6
"""Length of what is added to a centre: entries of one centre have a cosine of about .73."""
_NEAR = 0.35
"""Length of what is added to an entry to ask for it: a cosine of about .94."""
_TEXT = "How do I reset the password of account number {}?"
_ENCODED = 64
_SCAN_MAX = 8_192
_PAGE_BYTES = 4096

Vectors = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill a tier, then time it."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.semantic_lookups", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--entries", type=bounded(int, 100, 2_000_000), default=50_000)
    parser.add_argument("--lookups", type=bounded(int, 100, 100_000), default=2000)
    parser.add_argument(
        "--scan-max", type=bounded(int, 0, 2_000_000), default=_SCAN_MAX, help="no graph below"
    )
    parser.add_argument("--seed", type=bounded(int, 0, 2**31), default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)
    generator = np.random.default_rng(given.seed)
    vectors = _around(generator, _unit(generator.normal(size=(_CENTRES, DIMENSIONS))), given.entries, _SPREAD)
    tier, filled = _filled(vectors, given.scan_max)
    to_stderr(f"{given.entries} entries in {filled['fill_s']:.1f} s")
    row = {
        "case": f"{given.entries}_entries",
        "policy": "graph" if given.entries > given.scan_max else "scan",
        "seed": given.seed,
        **filled,
        **_timed(tier, vectors, generator, given.lookups),
        **_encoder_times(),
    }
    result = {
        "benchmark": "semantic_lookups",
        "command": " ".join(["python -m load_tests.semantic_lookups", *(arguments or sys.argv[1:])]),
        **circumstances(None),
        "rows": [row],
    }
    print(json.dumps(result) if given.json else json.dumps(row, indent=2))
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
        tier.store.put(_entry(number), vector)
    return tier, {
        "fill_s": time.perf_counter() - began_s,
        "memory_per_entry_bytes": (_resident_bytes() - before_bytes) / len(vectors),
    }


def _entry(number: int) -> StoredAnswer:
    return StoredAnswer(
        entry_id=f"{number:024x}",
        partition=_PARTITION,
        category="chat",
        language="en",
        text=_TEXT.format(number),
        document_id=f"{number:024x}",
        document_bytes=1024,
        saved_s=1.0,
        saved_tokens=100,
        stored_at_s=0.0,
        exact_key=f"{number:064x}",
    )


def _timed(
    tier: SemanticTier, vectors: Vectors, generator: np.random.Generator, lookups: int
) -> dict[str, Any]:
    """Look-ups, and how often the nearest entry was found for those that have one."""
    targets = generator.integers(0, len(vectors), lookups)
    near = _unit(vectors[targets] + _NEAR * _unit(generator.normal(size=(lookups, DIMENSIONS))))
    far = _unit(generator.normal(size=(lookups, DIMENSIONS)))
    times: list[float] = []
    found = 0
    for place, target in enumerate(targets):
        text = _TEXT.format(target)
        for vector in (near[place], far[place]):
            query = SemanticQuery(
                partition=_PARTITION, text=text, vector=vector, category="chat", language="en"
            )
            began_s = time.perf_counter()
            decision = tier.look_up(query, now_s=1.0, draw=1.0)
            times.append(time.perf_counter() - began_s)
            found += decision.entry is not None and decision.entry.entry_id == f"{target:024x}"
    p50_s, p99_s = np.quantile(times, (0.5, 0.99))
    return {"lookup_p50_s": float(p50_s), "lookup_p99_s": float(p99_s), "recall_at_1": found / lookups}


def _encoder_times() -> dict[str, Any]:
    model = MiniLm(threads=1)
    times: list[float] = []
    for number in range(_ENCODED):
        began_s = time.perf_counter()
        model.encode([_TEXT.format(number)])
        times.append(time.perf_counter() - began_s)
    p50_s, p99_s = np.quantile(times, (0.5, 0.99))
    return {"encode_p50_s": float(p50_s), "encode_p99_s": float(p99_s)}


def _around(generator: np.random.Generator, centres: Vectors, count: int, length: float) -> Vectors:
    chosen = centres[generator.integers(0, len(centres), count)]
    return _unit(chosen + length * _unit(generator.normal(size=(count, DIMENSIONS))))


def _unit(rows: NDArray[Any]) -> Vectors:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / lengths, dtype=np.float32)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


if __name__ == "__main__":
    sys.exit(main())
