"""The request log: one JSON line for every request, for people and for what collects logs.

The decision log holds what decisions were made from and is long; this one holds what became of a request and
fits on a line. Who asked is a tenant's id. What was asked is in it only if the configuration says so.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from cluster.config.observability import LoggingConfig
from cluster.entities.decision import DecisionRecord
from cluster.entities.energy import EnergySource
from cluster.entities.pool import PoolName
from cluster.entities.workload import Surface
from deployments.router.records.json_lines import JsonLines

logger = logging.getLogger("tidemill.router.requests")


class RequestLog:
    """Lines of one router."""

    def __init__(
        self, config: LoggingConfig, folder: Path | None, *, name: str, on_drop: Callable[[], None]
    ) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            config: bounds, and what may be written.
            folder: where files go; None writes nothing.
            name: begins the files' names.
            on_drop: called for every line that is lost.
        """
        self._config = config
        self._on = folder is not None and config.requests
        self._lines = JsonLines(
            config, folder if self._on else None, name=name, on_drop=on_drop, logger=logger
        )

    def start(self) -> None:
        """Begin writing in the background."""
        self._lines.start()

    async def close(self) -> None:
        """Write what waits and stop."""
        await self._lines.close()

    def finished(
        self,
        record: DecisionRecord,
        *,
        energy_j: float,
        energy_source: EnergySource | None,
        prompt: bytes,
        trace_id: str | None,
    ) -> None:
        """Write the line of a request that was routed.

        Args:
            record: what became of it.
            energy_j: what it used, as far as is known by now.
            energy_source: who says so; None if nobody does.
            prompt: its text, written only if the configuration says so.
            trace_id: of its trace; None if it has none.
        """
        if not self._on:
            return
        timeline = record.timeline
        line: dict[str, Any] = {
            "timestamp": _iso(record.at_wall_s),
            "decision_id": record.decision_id,
            "trace_id": trace_id,
            "tenant": record.signals.tenant,
            "surface": record.signals.surface,
            "stream": record.signals.stream,
            "model": record.signals.model,
            "cache": record.cache,
            "path": record.path,
            "pool": pool_of(record),
            "replica": None if record.replica is None else record.replica.choice.replica_id,
            "status": record.status,
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "output_tokens": record.output_tokens,
            "ttft_s": _rounded(timeline.ttft_s),
            "tpot_s": _rounded(timeline.tpot_s) if record.signals.stream else None,
            "e2e_s": _rounded(timeline.e2e_s),
            "energy_j": None if energy_source is None else _rounded(energy_j),
            "energy_source": energy_source,
            "attempts": len(record.attempts),
            "reasons": record.reasons,
        }
        if self._config.prompts:
            # The cut may fall into a character; what is left of that one is dropped.
            head = prompt[: 4 * self._config.prompt_chars_max].decode("utf-8", "ignore")
            line["prompt"] = head[: self._config.prompt_chars_max]
        self._lines.add(orjson.dumps(line))

    def refused(self, *, at_wall_s: float, surface: Surface | None, status: int, code: str | None) -> None:
        """Write the line of a request that was turned away before it was routed.

        Args:
            at_wall_s: when.
            surface: which API it asked; None for everything that is not one.
            status: what it got.
            code: the error's.
        """
        if self._on:
            line = {"timestamp": _iso(at_wall_s), "surface": surface, "status": status, "code": code}
            self._lines.add(orjson.dumps(line))


def pool_of(record: DecisionRecord) -> PoolName | None:
    """The pool of the replica that was chosen last; None if none was."""
    decision = record.replica
    if decision is None:
        return None
    chosen = decision.choice.replica_id
    return next((view.pool for view in decision.candidates if view.replica_id == chosen), None)


def _iso(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
