"""Sentence embeddings of benchmark texts, computed once per text and kept on disk.

The vectors are those of the deployed encoder; a table of thousands of prompts takes minutes on one core, and
every benchmark of model routing and of near matches needs the same ones.
"""

import hashlib
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployments.encoder.minilm import DIMENSIONS, MiniLm
from load_tests.text_files import FileError

TEXTS_KEPT_MAX = 131_072
"""Vectors kept on disk, 1.5 kB each; the oldest go first."""
_TEXTS_PER_WRITE = 64
_PROGRESS_TEXTS = 512
_SQL_VARIABLES_MAX = 500


def to_stderr(line: str) -> None:
    """Progress where a benchmark's progress goes."""
    print(line, file=sys.stderr, flush=True)


def default_cache() -> Path:
    """File in the user's cache directory, named after the encoder's weights."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tidemill" / "embeddings-all-minilm-l6-v2-int8.sqlite"


def embed(
    texts: Sequence[str], cache: Path | None = None, progress: Callable[[str], None] = to_stderr
) -> NDArray[np.float32]:
    """One row of 384 numbers with length 1 for each text, in the order of the texts.

    Args:
        texts: May repeat; each different one is computed once.
        cache: File that keeps vectors between runs; `default_cache()` if omitted.
        progress: Called with a line now and then.

    Raises:
        FileError: the file holds something else, or cannot be written to.
    """
    path = cache or default_cache()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _embedded(texts, path, progress)
    except sqlite3.DatabaseError as error:
        raise FileError(f"{path}: holds no embeddings ({error}); name another file") from error
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error


def _embedded(texts: Sequence[str], path: Path, progress: Callable[[str], None]) -> NDArray[np.float32]:
    keys = [_key(text) for text in texts]
    with closing(sqlite3.connect(path, timeout=60.0)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
        known = _read(database, keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            progress(f"embedding {len(missing)} texts, {len(known)} known from {path}")
            for done, vectors in _computed(missing):
                _keep(database, vectors)
                known |= vectors
                if done % _PROGRESS_TEXTS == 0:
                    progress(f"embedded {done} of {len(missing)} texts")
    rows = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
    for row, key in enumerate(keys):
        rows[row] = known[key]
    return rows


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=20).digest()


def _read(database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
    wanted = list(dict.fromkeys(keys))
    found: dict[bytes, NDArray[np.float32]] = {}
    for start in range(0, len(wanted), _SQL_VARIABLES_MAX):
        some = wanted[start : start + _SQL_VARIABLES_MAX]
        marks = ",".join("?" * len(some))
        query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"  # noqa: S608 - question marks only
        found |= {key: np.frombuffer(vector, dtype="<f4") for key, vector in database.execute(query, some)}
    return found


def _computed(texts: dict[bytes, str]) -> Iterator[tuple[int, dict[bytes, NDArray[np.float32]]]]:
    """Some vectors by key, with how many texts are done.

    One text at a time, as a router encodes them: a larger batch is padded to its longest text, which on one
    core is slower (400 questions: 7.7 s, in batches of 32 12.2 s) and moves the last digits of the vectors.
    """
    model = MiniLm(threads=1)
    keys = list(texts)
    for start in range(0, len(keys), _TEXTS_PER_WRITE):
        some = keys[start : start + _TEXTS_PER_WRITE]
        yield start + len(some), {key: model.encode([texts[key]]).vectors[0] for key in some}


def _keep(database: sqlite3.Connection, vectors: dict[bytes, NDArray[np.float32]]) -> None:
    with database:
        database.executemany(
            "INSERT OR REPLACE INTO vectors (key, vector) VALUES (?, ?)",
            [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()],
        )
        database.execute(
            "DELETE FROM vectors WHERE rowid <= (SELECT max(rowid) FROM vectors) - ?", (TEXTS_KEPT_MAX,)
        )
