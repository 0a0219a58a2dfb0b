"""The cache's documents in one SQLite file: the default, without a server.

Write-ahead logging lets several replicas of one machine share the file; what a killed process had committed
stays.
"""

import logging
import sqlite3
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np

from cluster.policy.semantic_cache.evidence import Judgement
from cluster.policy.semantic_cache.exact_scan import Vector
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import PurgeScope, StoredAnswer
from deployments.semantic_cache.documents import (
    JUDGEMENTS_KEPT,
    Document,
    Kept,
    blob_of,
    entry_of,
    judgement_meta,
    judgement_of,
    meta_of,
    vector_of,
)
from deployments.semantic_cache.resting import RestingEntries

logger = logging.getLogger("tidemill.cache.documents")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    entry_id TEXT PRIMARY KEY, tenant TEXT NOT NULL, model TEXT NOT NULL, scope TEXT NOT NULL,
    category TEXT NOT NULL, document_id TEXT NOT NULL,
    expires_at_s REAL NOT NULL, meta TEXT NOT NULL, vector BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS entries_by_partition ON entries (tenant, model, scope);
CREATE INDEX IF NOT EXISTS entries_by_expiry ON entries (expires_at_s);
CREATE INDEX IF NOT EXISTS entries_by_document ON entries (document_id);
CREATE TABLE IF NOT EXISTS documents (
    document_id TEXT PRIMARY KEY, content_type TEXT NOT NULL, body BLOB NOT NULL);
DROP TABLE IF EXISTS judgements; -- of releases that did not look at what stands around a match
CREATE TABLE IF NOT EXISTS judged (number INTEGER PRIMARY KEY, category TEXT NOT NULL, meta TEXT NOT NULL);
"""
_ORPHANS = "DELETE FROM documents WHERE document_id NOT IN (SELECT document_id FROM entries)"
_BUSY_S = 5.0
_READ_AT_A_TIME = 10_000


class SqliteDocuments:
    """See `Documents`.

    Args:
        file: Where to; None for a store that ends with the process.
        resting_max: Entries kept on disk only; 0 keeps none there.
    """

    def __init__(self, file: Path | None, *, resting_max: int = 0) -> None:
        self._file = file
        self._resting_max = resting_max
        self.resting: RestingEntries | None = None
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """See `Documents`."""
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connect()
        except sqlite3.OperationalError:
            raise  # it is locked, or may not be written: no reason to lose it
        except sqlite3.DatabaseError as error:
            if self._file is None:
                raise
            broken = self._file.with_name(f"{self._file.name}.broken")
            logger.warning("%s is put aside as %s: %s", self._file, broken.name, error)
            self._file.replace(broken)
            for ending in ("-wal", "-shm"):
                self._file.with_name(f"{self._file.name}{ending}").unlink(missing_ok=True)
            self._connect()

    def _connect(self) -> None:
        connection = sqlite3.connect(self._file or ":memory:", timeout=_BUSY_S, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        # A power cut may take the last commits with it, never half of one.
        connection.execute("PRAGMA synchronous=NORMAL")
        # Rows that are replaced take with them what hangs on them.
        connection.execute("PRAGMA recursive_triggers=ON")
        connection.executescript(_SCHEMA)
        # Always, so that a file in which entries rest is understood where none may rest any more.
        self.resting = RestingEntries(connection, entries_max=self._resting_max)
        self._connection = connection

    def close(self) -> None:
        """See `Documents`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RuntimeError("the documents are not open")
        return self._connection

    def write(self, entry: StoredAnswer, vector: Vector, document: Document, *, expires_at_s: float) -> None:
        """See `Documents`."""
        with self._database as database:
            database.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)",
                (entry.document_id, document.content_type, document.body),
            )
            database.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    entry.entry_id,
                    *entry.partition,
                    entry.category,
                    entry.document_id,
                    expires_at_s,
                    meta_of(entry),
                    blob_of(vector),
                ),
            )

    def promote(self, entry: StoredAnswer) -> None:
        """See `Documents`."""
        with self._database as database:
            database.execute(
                "UPDATE entries SET document_id = ?, meta = ? WHERE entry_id = ?",
                (entry.document_id, meta_of(entry), entry.entry_id),
            )

    def read(self, document_id: str) -> Document | None:
        """See `Documents`."""
        query = "SELECT body, content_type FROM documents WHERE document_id = ?"
        row = self._database.execute(query, (document_id,)).fetchone()
        return None if row is None else Document(body=row[0], content_type=row[1])

    def entries(self, partition: Partition, known: AbstractSet[str] = frozenset()) -> list[Kept]:
        """See `Documents`."""
        rows = self._database.execute(
            "SELECT entry_id, meta, vector FROM entries JOIN documents USING (document_id) "
            "WHERE tenant = ? AND model = ? AND scope = ? "
            "AND entry_id NOT IN (SELECT entry_id FROM places) ORDER BY entries.rowid",
            partition,
        )
        return [
            (entry_of(meta), vector_of(vector)) for entry_id, meta, vector in rows if entry_id not in known
        ]

    def near(
        self, scope: PurgeScope, vector: Vector, *, similarity_min: float, answers: AbstractSet[str]
    ) -> list[StoredAnswer]:
        """See `Documents`."""
        near: list[StoredAnswer] = []
        last = ""
        while True:
            rows = self._database.execute(
                "SELECT entry_id, meta, vector FROM entries WHERE entry_id > ? ORDER BY entry_id LIMIT ?",
                (last, _READ_AT_A_TIME),
            ).fetchall()
            if not rows:
                near += self._sharing({*answers, *(entry.document_id for entry in near)})
                return list({entry.entry_id: entry for entry in near}.values())
            last = rows[-1][0]
            cosines = np.stack([vector_of(blob) for _, _, blob in rows]) @ vector
            entries = (entry_of(rows[place][1]) for place in np.flatnonzero(cosines >= similarity_min))
            near += [entry for entry in entries if scope.covers(entry)]

    def _sharing(self, document_ids: AbstractSet[str]) -> list[StoredAnswer]:
        query = "SELECT meta FROM entries WHERE document_id = ?"
        return [
            entry_of(row[0])
            for document_id in document_ids
            for row in self._database.execute(query, (document_id,))
        ]

    def forget(self, entries: Sequence[StoredAnswer], document_ids: Sequence[str]) -> None:
        """See `Documents`."""
        with self._database as database:
            database.executemany(
                "DELETE FROM entries WHERE entry_id = ?", [(entry.entry_id,) for entry in entries]
            )
            # An entry that no memory holds may share the answer.
            database.executemany(
                "DELETE FROM documents WHERE document_id = ?1 "
                "AND NOT EXISTS (SELECT 1 FROM entries WHERE document_id = ?1)",
                [(name,) for name in document_ids],
            )

    def forget_scope(self, scope: PurgeScope) -> int:
        """See `Documents`."""
        with self._database as database:
            gone = database.execute(
                "DELETE FROM entries WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR model = ?2) "
                "AND (?3 IS NULL OR category = ?3) AND (?4 IS NULL OR document_id IN "
                "(SELECT document_id FROM entries WHERE entry_id = ?4))",
                (scope.tenant, scope.model, scope.category, scope.entry_id),
            ).rowcount
            database.execute(_ORPHANS)
        return gone

    def forget_expired(self, *, now_s: float) -> None:
        """See `Documents`."""
        with self._database as database:
            gone = database.execute("DELETE FROM entries WHERE expires_at_s <= ?", (now_s,)).rowcount
            if gone:
                database.execute(_ORPHANS)

    def write_judgement(self, category: str, judgement: Judgement) -> None:
        """See `Documents`."""
        with self._database as database:
            database.execute(
                "INSERT INTO judged (category, meta) VALUES (?, ?)", (category, judgement_meta(judgement))
            )
            database.execute(
                "DELETE FROM judged WHERE number <= (SELECT max(number) FROM judged) - ?",
                (JUDGEMENTS_KEPT,),
            )

    def judgements(self) -> list[tuple[str, Judgement]]:
        """See `Documents`."""
        rows = self._database.execute("SELECT category, meta FROM judged ORDER BY number")
        return [(category, judgement_of(meta)) for category, meta in rows]
