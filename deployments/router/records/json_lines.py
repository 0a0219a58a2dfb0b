"""JSON lines on disk: bounded in what waits, in size and number of files; no request waits for the disk."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

_FLUSH_PERIOD_S = 0.25
_ROUTERS_REMEMBERED = 4
"""Times `files_max`: how many files of other routers a starting one leaves in the folder."""


class JsonLines:
    """One router's files in a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        file_bytes_max: int,
        files_max: int,
        queue_max: int,
        on_drop: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            folder: where files go.
            name: begins the files' names; one writer each.
            file_bytes_max: a file of this size is closed.
            files_max: how many are kept.
            queue_max: how many lines may wait.
            on_drop: called for every line that is lost because the disk is too slow or full.
            logger: told why.
        """
        self._folder = folder
        self._name = name
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._queue_max = queue_max
        self._on_drop = on_drop
        self._logger = logger
        self._waiting: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._may_be_torn = True

    def start(self) -> None:
        """Begin writing in the background."""
        self._prune()
        self._task = asyncio.create_task(self._write_for_ever())

    async def close(self) -> None:
        """Write what waits and stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await self._flush()

    def add(self, line: bytes) -> None:
        """Take a line without its end."""
        if len(self._waiting) >= self._queue_max:
            self._on_drop()
            return
        self._waiting.append(line)

    def _prune(self) -> None:
        """Delete the oldest files of routers that are gone: each start brings a new name."""
        with contextlib.suppress(OSError):
            others = [p for p in self._folder.glob("*.jsonl") if not p.name.startswith(f"{self._name}.")]
            others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in others[_ROUTERS_REMEMBERED * self._files_max :]:
                path.unlink(missing_ok=True)

    async def _write_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_PERIOD_S)
            await self._flush()

    async def _flush(self) -> None:
        if not self._waiting:
            return
        lines, self._waiting = self._waiting, []
        try:
            await asyncio.to_thread(self._write, lines)
        except OSError as error:
            # A full disk costs the log, never a request.
            self._logger.error("log not written: %s", error)  # noqa: TRY400 - the trace says no more
            for _ in lines:
                self._on_drop()

    def _write(self, lines: list[bytes]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        current = self._folder / f"{self._name}.jsonl"
        if self._may_be_torn:
            _cut_torn_line(current)
        self._may_be_torn = True
        with current.open("ab") as file:
            file.write(b"\n".join(lines) + b"\n")
            full = file.tell() >= self._file_bytes_max
        self._may_be_torn = False
        if full:
            self._rotate(current)

    def _rotate(self, current: Path) -> None:
        """`name.jsonl` is being written; `name.1.jsonl` is the newest closed file."""
        for number in range(self._files_max - 1, 0, -1):
            source = current if number == 1 else self._folder / f"{self._name}.{number - 1}.jsonl"
            if source.exists():
                source.replace(self._folder / f"{self._name}.{number}.jsonl")
        if self._files_max == 1:
            current.unlink()


def _cut_torn_line(path: Path) -> None:
    """Remove what a full disk or a killed process left of a last line."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
