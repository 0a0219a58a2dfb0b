"""Finds what the engines said last, for the person whose start-up has failed."""

import re
from pathlib import Path

_TAIL_BYTES = 64 * 1024
_TELLING = re.compile(r"\b(\w*Error|\w*Exception|ERROR|CRITICAL|Killed|out of memory)\b")
_LINE_CHARACTERS_MAX = 300


def last_errors(runtime_dir: Path, *, lines_max: int = 5) -> list[str]:
    """The latest lines in Ray's worker and Serve logs that tell of an error; empty if there are none.

    Args:
        runtime_dir: as of `LocalCluster`.
        lines_max: how many lines at most.
    """
    logs = runtime_dir / "ray" / "session_latest" / "logs"
    files = [*logs.glob("serve/replica_*"), *logs.glob("worker-*.err"), *logs.glob("worker-*.out")]
    files = [file for file in files if file.is_file()]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        found = [line for line in _tail(file) if _TELLING.search(line)]
        if found:
            return [line.strip()[:_LINE_CHARACTERS_MAX] for line in found[-lines_max:]]
    return []


def _tail(file: Path) -> list[str]:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        return stream.read().decode("utf-8", errors="replace").splitlines()
