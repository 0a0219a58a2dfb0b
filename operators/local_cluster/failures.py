"""Finds what the engines said last, for the person whose start-up has failed.

Serve says only that a deployment failed. Why stands in its controller's log, as the exception that ended the
replica, and in what the engine's process wrote itself.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

_TAIL_BYTES = 64 * 1024
_LINES_MAX = 5
"""Of either kind."""
_LINE_CHARACTERS_MAX = 300
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Exit)\b.*: ")
_WRAPPING = re.compile(r"ray\.exceptions\.|.*Traceback \(most recent call last\):$")
_TELLING = re.compile(r"\b(\w*Error|\w*Exception|error|ERROR|CRITICAL|Killed|out of memory)\b")


def last_errors(runtime_dir: Path) -> list[str]:
    """The latest lines in Serve's and the workers' logs that tell why a replica failed; empty if none do.

    Args:
        runtime_dir: as of `LocalCluster`.
    """
    logs = runtime_dir / "ray" / "session_latest" / "logs"
    ended = _latest(logs.glob("serve/controller_*"), _is_cause)
    wrote = _latest(
        [*logs.glob("serve/replica_*"), *logs.glob("worker-*.err"), *logs.glob("worker-*.out")], _is_telling
    )
    found = dict.fromkeys([*wrote[-_LINES_MAX:], *ended[-_LINES_MAX:]])  # equal ones once, in their order
    return list(found)


def _is_cause(line: str) -> bool:
    return _EXCEPTION.match(line) is not None and _WRAPPING.match(line) is None


def _is_telling(line: str) -> bool:
    return _TELLING.search(line) is not None


def _latest(files: Iterable[Path], wanted: Callable[[str], bool]) -> list[str]:
    """The wanted lines, each once, of the file written last that has any."""
    present = [file for file in files if file.is_file()]
    for file in sorted(present, key=lambda file: file.stat().st_mtime, reverse=True):
        found = dict.fromkeys(line for line in _tail(file) if wanted(line))
        if found:
            return list(found)
    return []


def _tail(file: Path) -> list[str]:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        lines = stream.read().decode("utf-8", errors="replace").splitlines()
    return [_COLOURS.sub("", line).strip()[:_LINE_CHARACTERS_MAX] for line in lines]
