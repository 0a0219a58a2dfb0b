"""Entries on disk only: what memory has no room for rests here and is found again by its vector.

The rows lie in the documents' own SQLite file, so that what is forgotten there is forgotten here, in the same
transaction. Vectors are half as precise here; a found entry gets its exact vector back with it. Partitions
are as hard as in memory: a look-up reads rows of one partition, and what it found is checked by name.
"""

import hashlib
import sqlite3
from collections.abc import Sequence

import numpy as np

from cluster.policy.semantic_cache.exact_scan import Vector
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import StoredAnswer
from deployments.semantic_cache.cells import Cells, Vectors, trained
from deployments.semantic_cache.documents import Kept, entry_of, vector_of

STAGES = ((2_048, 128), (16_384, 1_024))
"""Resting entries from which on there are so many cells; fewer than the first are looked at one by one."""
_CELLS_READ = 4
"""For one look-up; a million entries have some thousand in a cell."""
_COUNTED_EVERY = 256
_GIVEN_UP_SHARE = 0.01
_SCHEMA = """
CREATE TABLE IF NOT EXISTS resting (
    partition INTEGER NOT NULL, cell INTEGER NOT NULL, entry_id TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (partition, cell, entry_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (
    entry_id TEXT PRIMARY KEY, partition INTEGER NOT NULL, cell INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cells (
    number INTEGER PRIMARY KEY CHECK (number = 0), count INTEGER NOT NULL, centres BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS entry_forgotten AFTER DELETE ON entries BEGIN
    DELETE FROM places WHERE entry_id = OLD.entry_id;
END;
CREATE TRIGGER IF NOT EXISTS place_left AFTER DELETE ON places BEGIN
    DELETE FROM resting WHERE partition = OLD.partition AND cell = OLD.cell AND entry_id = OLD.entry_id;
END;
"""
_OF_ONE_CELL = 0


class RestingEntries:
    """Entries of all partitions that are not in memory. Blocking; used by the documents' thread.

    Args:
        database: With the documents' tables.
        entries_max: More are not kept; those that expire first go.
    """

    def __init__(self, database: sqlite3.Connection, *, entries_max: int) -> None:
        self._database = database
        self._entries_max = entries_max
        database.executescript(_SCHEMA)
        self._count = self._counted()
        self._rested = 0
        self._made: Cells | None = None
        """As they were when they were looked at last."""

    def __len__(self) -> int:
        return self._count

    def rest(self, entries: Sequence[StoredAnswer]) -> None:
        """Takes in entries that memory gave up; those whose rows are gone are left out."""
        with self._database as database:
            # Before the cells are looked at: nobody else may make others until these entries have theirs.
            database.execute("BEGIN IMMEDIATE")
            cells = self._cells()
            for entry in entries:
                query = "SELECT vector FROM entries WHERE entry_id = ?"
                row = database.execute(query, (entry.entry_id,)).fetchone()
                if row is not None:
                    self._place(database, entry, vector_of(row[0]), cells)
            if self._rested >= _COUNTED_EVERY:
                # What expired or was purged meanwhile was not counted down.
                self._count, self._rested = self._counted(), 0
            self._keep_bound(database)
        wanted = max((cells for entries, cells in STAGES if self._count >= entries), default=0)
        if wanted > (0 if cells is None else len(cells.centres)):
            self._train(wanted)

    def wake(self, entries: Sequence[StoredAnswer]) -> None:
        """Gives up entries that are in memory again."""
        with self._database as database:
            for entry in entries:
                gone = database.execute("DELETE FROM places WHERE entry_id = ?", (entry.entry_id,)).rowcount
                self._count -= gone

    def nearest(self, partition: Partition, vector: Vector, count: int) -> list[Kept]:
        """The nearest entries of a partition, the nearest first."""
        number = _number(partition)
        made = self._cells()
        if made is None:
            rows = self._database.execute(
                "SELECT entry_id, vector FROM resting WHERE partition = ?", (number,)
            )
        else:
            cells = made.nearest(vector, _CELLS_READ)
            marks = ",".join("?" * len(cells))
            rows = self._database.execute(
                f"SELECT entry_id, vector FROM resting WHERE partition = ? AND cell IN ({marks})",  # noqa: S608
                (number, *cells),
            )
        found = rows.fetchall()
        if not found:
            return []
        cosines = _halves([blob for _, blob in found]) @ vector
        best = np.argsort(-cosines)[:count]
        kept = (self._kept(found[place][0]) for place in best)
        return [each for each in kept if each is not None and each[0].partition == partition]

    def _counted(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM places").fetchone()[0])

    def _kept(self, entry_id: str) -> Kept | None:
        row = self._database.execute(
            "SELECT meta, vector FROM entries JOIN documents USING (document_id) WHERE entry_id = ?",
            (entry_id,),
        ).fetchone()
        return None if row is None else (entry_of(row[0]), vector_of(row[1]))

    def _place(
        self, database: sqlite3.Connection, entry: StoredAnswer, vector: Vector, cells: Cells | None
    ) -> None:
        number = _number(entry.partition)
        cell = _OF_ONE_CELL if cells is None else int(cells.of(vector[np.newaxis])[0])
        new = database.execute(
            "INSERT OR IGNORE INTO places VALUES (?, ?, ?)", (entry.entry_id, number, cell)
        ).rowcount
        if new:
            half = vector.astype("<f2").tobytes()
            database.execute("INSERT INTO resting VALUES (?, ?, ?, ?)", (number, cell, entry.entry_id, half))
            self._count += 1
            self._rested += 1

    def _keep_bound(self, database: sqlite3.Connection) -> None:
        if self._count <= self._entries_max:
            return
        # Some more than needed, so that this is not done for every entry.
        beyond = self._count - int(self._entries_max * (1.0 - _GIVEN_UP_SHARE))
        database.execute(
            "DELETE FROM entries WHERE entry_id IN (SELECT entry_id FROM entries "
            "JOIN places USING (entry_id) ORDER BY expires_at_s LIMIT ?)",
            (beyond,),
        )
        database.execute("DELETE FROM documents WHERE document_id NOT IN (SELECT document_id FROM entries)")
        self._count = self._counted()

    def _cells(self) -> Cells | None:
        """The cells of the file; another replica may have made others. There are never two of one number."""
        known = 0 if self._made is None else len(self._made.centres)
        row = self._database.execute("SELECT count FROM cells").fetchone()
        if row is not None and row[0] != known:
            count, centres = self._database.execute("SELECT count, centres FROM cells").fetchone()
            self._made = Cells(np.frombuffer(centres, dtype="<f4").reshape(count, -1).astype(np.float32))
        return self._made

    def _train(self, count: int) -> None:
        """Fit so many cells to what rests, and move every row to its cell."""
        rows = self._database.execute("SELECT vector FROM resting").fetchall()
        if len(rows) < count:
            return  # purged, and not counted down yet
        cells = trained(_halves([row[0] for row in rows]), count)
        with self._database as database:
            # What other replicas did while the cells were fitted counts, and nothing comes in between now.
            database.execute("BEGIN IMMEDIATE")
            theirs = self._cells()
            if theirs is not None and len(theirs.centres) >= count:
                return
            rows = database.execute("SELECT partition, entry_id, vector FROM resting").fetchall()
            if not rows:
                return
            owners = cells.of(_halves([blob for *_, blob in rows]))
            moved = [
                (partition, int(cell), entry_id, blob)
                for (partition, entry_id, blob), cell in zip(rows, owners, strict=True)
            ]
            database.execute("DELETE FROM resting")
            database.executemany("INSERT INTO resting VALUES (?, ?, ?, ?)", moved)
            database.executemany(
                "UPDATE places SET cell = ? WHERE entry_id = ?",
                [(cell, entry_id) for _, cell, entry_id, _ in moved],
            )
            database.execute(
                "INSERT OR REPLACE INTO cells VALUES (0, ?, ?)",
                (count, cells.centres.astype("<f4").tobytes()),
            )


def _number(partition: Partition) -> int:
    digest = hashlib.blake2b("\0".join(partition).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _halves(blobs: Sequence[bytes]) -> Vectors:
    return np.frombuffer(b"".join(blobs), dtype="<f2").reshape(len(blobs), -1).astype(np.float32)
