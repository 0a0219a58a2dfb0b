"""Look-ups of near matches that rest on disk."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from deployments.encoder.minilm import DIMENSIONS
from deployments.semantic_cache.documents import Document
from deployments.semantic_cache.resting import RestingEntries
from deployments.semantic_cache.sqlite_documents import SqliteDocuments
from load_tests.caching.entries import NEAR, PARTITION, Vectors, entry, unit
from load_tests.embeddings import to_stderr

_AT_A_TIME = 1000
_SAID_EVERY = 50_000


def on_disk(
    vectors: Vectors, generator: np.random.Generator, lookups: int, *, folder: Path
) -> dict[str, Any]:
    """Write entries as the cache does, let all of them rest, then look near and far from them.

    A file of an earlier run with as many entries is used again. The operating system keeps what it likes of
    the file in its page cache, as it would in production.
    """
    file = folder / "near.sqlite"
    documents = SqliteDocuments(file, resting_max=len(vectors))
    documents.open()
    resting = documents.resting
    assert resting is not None  # noqa: S101 - an open file has it
    measured: dict[str, Any] = {}
    if len(resting) < len(vectors):
        measured["fill_s"] = _fill(documents, resting, vectors)
    targets = generator.integers(0, len(vectors), lookups)
    near = unit(vectors[targets] + NEAR * unit(generator.normal(size=(lookups, DIMENSIONS))))
    far = unit(generator.normal(size=(lookups, DIMENSIONS)))
    times: list[float] = []
    found = 0
    for place, target in enumerate(targets):
        for vector, is_near in ((near[place], True), (far[place], False)):
            began_s = time.perf_counter()
            kept = resting.nearest(PARTITION, vector, 4)
            times.append(time.perf_counter() - began_s)
            found += is_near and bool(kept) and kept[0][0].entry_id == entry(int(target)).entry_id
    documents.close()
    p50_s, p99_s = np.quantile(times, (0.5, 0.99))
    return measured | {
        "file_bytes": file.stat().st_size,
        "lookup_p50_s": float(p50_s),
        "lookup_p99_s": float(p99_s),
        "recall_at_1": found / lookups,
    }


def _fill(documents: SqliteDocuments, resting: RestingEntries, vectors: Vectors) -> float:
    answer = Document(body=b"x" * 1024, content_type="application/json")
    began_s = time.perf_counter()
    for first in range(0, len(vectors), _AT_A_TIME):
        entries = [entry(number) for number in range(first, min(first + _AT_A_TIME, len(vectors)))]
        for each, vector in zip(entries, vectors[first : first + _AT_A_TIME], strict=True):
            documents.write(each, vector, answer, expires_at_s=1e10)
        resting.rest(entries)
        if (first + _AT_A_TIME) % _SAID_EVERY == 0:
            to_stderr(f"{first + _AT_A_TIME} entries after {time.perf_counter() - began_s:.0f} s")
    return time.perf_counter() - began_s
