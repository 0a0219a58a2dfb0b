"""The ledger in one SQLite file: the default, without a server, for routers on one machine.

Write-ahead logging lets all routers share it; an immediate transaction is what makes an order one step.
"""

import fcntl
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

from cluster.entities.tenancy import Usage, Window
from cluster.policy.tenancy.account import Order, Reply, exchange
from cluster.policy.tenancy.windows import slot_of
from deployments.tenants.ledger import (
    USAGE_KEPT_S,
    USAGE_WINDOWS,
    LedgerAwayError,
    Terms,
    UsageRow,
    from_json,
    to_json,
    usage_from,
    usage_slots,
)

_PARTS = tuple(field.name for field in fields(Usage))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS accounts (tenant TEXT PRIMARY KEY, account TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reports (
    router TEXT PRIMARY KEY, number INTEGER NOT NULL, at_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS usage (
    tenant TEXT NOT NULL, window TEXT NOT NULL, slot INTEGER NOT NULL,
    {", ".join(f"{name} REAL NOT NULL" for name in _PARTS)},
    PRIMARY KEY (tenant, window, slot)) WITHOUT ROWID;
"""
_ADD = (
    f"INSERT INTO usage VALUES (?, ?, ?, {', '.join('?' * len(_PARTS))}) "  # noqa: S608 - names of our own
    f"ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in _PARTS)}"
)
_REPORTS_KEPT_S = 86_400.0


class SqliteLedger:
    """See `Ledger`.

    Args:
        file: Where to; None for one that ends with the process.
        timeout_s: how long to wait for another router's transaction.
    """

    def __init__(self, file: Path | None, *, timeout_s: float) -> None:
        self._file = file
        self._timeout_s = timeout_s
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """See `Ledger`."""
        try:
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._opening_alone():
                connection = sqlite3.connect(
                    self._file or ":memory:",
                    timeout=self._timeout_s,
                    check_same_thread=False,
                    isolation_level=None,
                )
                connection.execute("PRAGMA journal_mode=WAL")
                # A power cut may take the last second with it, never half of an order.
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise LedgerAwayError(f"the ledger cannot be opened: {error}") from error
        self._connection = connection

    @contextmanager
    def _opening_alone(self) -> Iterator[None]:
        """Turning a file to write-ahead logging waits for nobody in SQLite, whatever its timeout."""
        if self._file is None:
            yield
            return
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def close(self) -> None:
        """See `Ledger`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._connection is None:
            self.open()
        connection = self._connection
        assert connection is not None  # noqa: S101 - just opened
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.close()
            raise LedgerAwayError(f"the ledger does not answer: {error}") from error

    def exchange(self, orders: Sequence[tuple[Order, Terms]]) -> list[Reply]:
        """See `Ledger`."""
        replies: list[Reply] = []
        with self._transaction() as connection:
            for order, terms in orders:
                row = connection.execute(
                    "SELECT account FROM accounts WHERE tenant = ?", (order.tenant,)
                ).fetchone()
                before = from_json(None if row is None else row[0])
                after, reply = exchange(before, order, terms.quotas, terms.places_max, time.time())
                connection.execute(
                    "INSERT OR REPLACE INTO accounts VALUES (?, ?)", (order.tenant, to_json(after))
                )
                replies.append(reply)
        return replies

    def add_usage(self, router: str, number: int, used: Mapping[str, Usage]) -> None:
        """See `Ledger`."""
        now_s = time.time()
        with self._transaction() as connection:
            last = connection.execute("SELECT number FROM reports WHERE router = ?", (router,)).fetchone()
            if last is not None and last[0] >= number:
                return
            connection.execute("INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", (router, number, now_s))
            connection.execute("DELETE FROM reports WHERE at_s < ?", (now_s - _REPORTS_KEPT_S,))
            for window, slot in usage_slots(now_s):
                rows = [
                    (tenant, window.value, slot, *asdict(usage).values()) for tenant, usage in used.items()
                ]
                connection.executemany(_ADD, rows)
            for window in USAGE_WINDOWS:
                oldest = slot_of(window, now_s - USAGE_KEPT_S[window])
                connection.execute("DELETE FROM usage WHERE window = ? AND slot < ?", (window.value, oldest))

    def usage(self) -> list[UsageRow]:
        """See `Ledger`."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT * FROM usage ORDER BY tenant, window, slot").fetchall()
        return [
            UsageRow(
                tenant=tenant,
                window=Window(window),
                slot=slot,
                usage=usage_from(dict(zip(_PARTS, parts, strict=True))),
            )
            for tenant, window, slot, *parts in rows
        ]
