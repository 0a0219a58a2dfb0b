"""Writes the decision log: bounded in memory, on disk, and in what may wait to be written."""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson

from cluster.config.decision_log import DecisionLogConfig
from cluster.entities.decision import DecisionRecord

logger = logging.getLogger("tidemill.router.decisions")

_FLUSH_PERIOD_S = 0.25
_ROUTERS_REMEMBERED = 4
"""Times `files_max`: how many files of other routers a starting one leaves in the folder."""


class DecisionLog:
    """Latest records in memory, all of them in JSONL files of bounded size and number."""

    def __init__(
        self, config: DecisionLogConfig, folder: Path | None, *, name: str, on_drop: Callable[[], None]
    ) -> None:
        """Prepare; files are opened by `start`.

        Args:
            config: bounds.
            folder: where files go; None keeps records in memory only.
            name: begins the files' names; one writer each.
            on_drop: called for every record that is lost because the disk is too slow.
        """
        self._config = config
        self._folder = folder if config.enabled else None
        self._name = name
        self._on_drop = on_drop
        self._latest: OrderedDict[str, bytes] = OrderedDict()
        self._waiting: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._may_be_torn = True

    def start(self) -> None:
        """Begin writing in the background."""
        if self._folder is not None:
            self._prune(self._folder)
            self._task = asyncio.create_task(self._write_for_ever())

    async def close(self) -> None:
        """Write what waits and stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await self._flush()

    def add(self, record: DecisionRecord) -> None:
        """Take a record. Never waits."""
        # The hashes are the prompt's fingerprint and long; decisions can be taken again without them.
        lean = replace(record, signals=replace(record.signals, block_hashes=()))
        choice = lean.model_choice
        if choice is not None and not self._config.embeddings:
            lean = replace(lean, model_choice=replace(choice, signals=replace(choice.signals, embedding=())))
        line = orjson.dumps(lean)
        self._latest[record.decision_id] = line
        if len(self._latest) > self._config.memory_records_max:
            self._latest.popitem(last=False)
        if self._folder is None:
            return
        if len(self._waiting) >= self._config.queue_max:
            self._on_drop()
            return
        self._waiting.append(line)

    async def find(self, decision_id: str) -> bytes | None:
        """A record's JSON, from memory or from any router's files in the folder; None if it is gone."""
        found = self._latest.get(decision_id)
        if found is None and self._folder is not None:
            return await asyncio.to_thread(_search, self._folder, decision_id)
        return found

    def _prune(self, folder: Path) -> None:
        """Delete the oldest files of routers that are gone: each start brings a new name."""
        with contextlib.suppress(OSError):
            others = [path for path in folder.glob("*.jsonl") if not path.name.startswith(f"{self._name}.")]
            others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in others[_ROUTERS_REMEMBERED * self._config.files_max :]:
                path.unlink(missing_ok=True)

    async def _write_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_PERIOD_S)
            await self._flush()

    async def _flush(self) -> None:
        if not self._waiting or self._folder is None:
            return
        lines, self._waiting = self._waiting, []
        try:
            await asyncio.to_thread(self._write, self._folder, lines)
        except OSError as error:
            # A full disk costs the log, never a request.
            logger.error("decision log not written: %s", error)  # noqa: TRY400 - the trace says no more
            for _ in lines:
                self._on_drop()

    def _write(self, folder: Path, lines: list[bytes]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        current = folder / f"{self._name}.jsonl"
        if self._may_be_torn:
            _cut_torn_line(current)
        self._may_be_torn = True
        with current.open("ab") as file:
            file.write(b"\n".join(lines) + b"\n")
            full = file.tell() >= self._config.file_bytes_max
        self._may_be_torn = False
        if full:
            self._rotate(folder, current)

    def _rotate(self, folder: Path, current: Path) -> None:
        """`name.jsonl` is being written; `name.1.jsonl` is the newest closed file."""
        for number in range(self._config.files_max - 1, 0, -1):
            source = current if number == 1 else folder / f"{self._name}.{number - 1}.jsonl"
            if source.exists():
                source.replace(folder / f"{self._name}.{number}.jsonl")
        if self._config.files_max == 1:
            current.unlink()


def _cut_torn_line(path: Path) -> None:
    """Remove what a full disk or a killed process left of a last line."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _search(folder: Path, decision_id: str) -> bytes | None:
    needle = b'"decision_id":' + orjson.dumps(decision_id)
    files = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files:
        with contextlib.suppress(OSError), path.open("rb") as file:
            for line in file:
                if needle in line and line.endswith(b"\n"):
                    return line.rstrip(b"\n")
    return None
