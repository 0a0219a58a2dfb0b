"""The decision log: the latest records in memory, all of them in files."""

import asyncio
import contextlib
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson

from cluster.config.decision_log import DecisionLogConfig
from cluster.entities.decision import DecisionRecord
from deployments.router.adapters.outcomes import without_words
from deployments.router.records.json_lines import JsonLines

logger = logging.getLogger("tidemill.router.decisions")

_MADE_AT_MS = re.compile(r"d-([0-9a-f]{12})-")
"""How a decision's id begins: with the Unix time at which its request came."""
_CLOCK_SLACK_S = 300.0
"""A clock may have been set back in between."""


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
        self._latest: OrderedDict[str, bytes] = OrderedDict()
        self._lines = JsonLines(config, self._folder, name=name, on_drop=on_drop, logger=logger)

    def start(self) -> None:
        """Begin writing in the background."""
        self._lines.start()

    async def close(self) -> None:
        """Write what waits and stop."""
        await self._lines.close()

    def add(self, record: DecisionRecord) -> None:
        """Take a record. Never waits."""
        lean, choice = record, record.model_choice
        if record.signals.block_hashes:
            # They are the prompt's fingerprint and long; decisions can be taken again without them.
            lean = replace(record, signals=replace(record.signals, block_hashes=()))
        if choice is not None and not self._config.embeddings:
            lean = replace(lean, model_choice=replace(choice, signals=replace(choice.signals, embedding=())))
        if not self._config.embeddings:
            lean = without_words(lean)
        line = orjson.dumps(lean)
        self._latest[record.decision_id] = line
        if len(self._latest) > self._config.memory_records_max:
            self._latest.popitem(last=False)
        self._lines.add(line)

    async def find(self, decision_id: str) -> bytes | None:
        """A record's JSON, from memory or from any router's files in the folder; None if it is gone."""
        found = self._latest.get(decision_id)
        if found is None and self._folder is not None:
            return await asyncio.to_thread(_search, self._folder, decision_id)
        return found


def _search(folder: Path, decision_id: str) -> bytes | None:
    needle = b'"decision_id":' + orjson.dumps(decision_id)
    made = _MADE_AT_MS.match(decision_id)
    # Who asks for what never was is not to have every file read: those that were written last before the
    # decision was made do not hold it.
    since_s = int(made.group(1), 16) / 1000 - _CLOCK_SLACK_S if made else 0.0
    written_at_s = {path: _written_at_s(path) for path in folder.glob("*.jsonl")}
    for path in sorted(written_at_s, key=written_at_s.__getitem__, reverse=True):
        if written_at_s[path] < since_s:
            break
        with contextlib.suppress(OSError), path.open("rb") as file:
            for line in file:
                if needle in line and line.endswith(b"\n"):
                    return line.rstrip(b"\n")
    return None


def _written_at_s(path: Path) -> float:
    """When a file was last written; 0 if it has just been renamed."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
