"""JSON lines on disk: bounded in what waits, in size and number of files; no request waits for the disk."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from cluster.config.decision_log import DecisionLogConfig
from cluster.config.observability import LoggingConfig

_FLUSH_PERIOD_S = 0.25
_ROUTERS_REMEMBERED = 4
"""Times `files_max`: how many files of other routers a starting one leaves in the folder."""


class JsonLines:
    """One router's files in a folder."""

    def __init__(
        self,
        bounds: DecisionLogConfig | LoggingConfig,
        folder: Path | None,
        *,
        name: str,
        on_drop: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            bounds: of files and of what waits.
            folder: where files go; None writes nothing.
            name: begins the files' names; one writer each.
            on_drop: called for every line that is lost because the disk is too slow or full.
            logger: told why.
        """
        self._bounds = bounds
        self._folder = folder
        self._name = name
        self._on_drop = on_drop
        self._logger = logger
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

    def add(self, line: bytes) -> None:
        """Take a line without its end."""
        if self._folder is None:
            return
        if len(self._waiting) >= self._bounds.queue_max:
            self._on_drop()
            return
        self._waiting.append(line)

    def _prune(self, folder: Path) -> None:
        """Delete the oldest files of routers that are gone: each start brings a new name."""
        with contextlib.suppress(OSError):
            others = [p for p in folder.glob("*.jsonl") if not p.name.startswith(f"{self._name}.")]
            others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in others[_ROUTERS_REMEMBERED * self._bounds.files_max :]:
                path.unlink(missing_ok=True)

    async def _write_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_PERIOD_S)
            await self._flush()

    async def _flush(self) -> None:
        if self._folder is None or not self._waiting:
            return
        lines, self._waiting = self._waiting, []
        try:
            await asyncio.to_thread(self._write, self._folder, lines)
        except OSError as error:
            # A full disk costs the log, never a request.
            self._logger.error("log not written: %s", error)  # noqa: TRY400 - the trace says no more
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
            full = file.tell() >= self._bounds.file_bytes_max
        self._may_be_torn = False
        if full:
            self._rotate(current)

    def _rotate(self, current: Path) -> None:
        """`name.jsonl` is being written; `name.1.jsonl` is the newest closed file."""
        for number in range(self._bounds.files_max - 1, 0, -1):
            source = current if number == 1 else current.with_name(f"{self._name}.{number - 1}.jsonl")
            if source.exists():
                source.replace(current.with_name(f"{self._name}.{number}.jsonl"))
        if self._bounds.files_max == 1:
            current.unlink()


def _cut_torn_line(path: Path) -> None:
    """Remove what a full disk or a killed process left of a last line."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
