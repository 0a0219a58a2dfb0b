"""Mooncake's traces: JSON lines with timestamp (ms), input_length, output_length and hash_ids of blocks."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson

from cluster.simulation.traffic.trace import Floats, Trace, TraceError, token_count

BLOCK_TOKENS = 512


def read_mooncake(name: str, lines: Iterable[str], requests_max: int | None = None) -> Trace:
    """Read the JSON lines.

    Timestamps are rounded to steps of seconds in the published files; requests that share one are spread
    evenly up to the next.

    Args:
        name: of the file, for messages.
        lines: of the file.
        requests_max: stop after so many.

    Raises:
        TraceError: a line does not have the format; the message names it.
    """
    at_s: list[float] = []
    prompts: list[int] = []
    answers: list[int] = []
    blocks: list[tuple[int, ...]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if requests_max is not None and len(at_s) >= requests_max:
            break
        try:
            row = orjson.loads(line)
            if not isinstance(row, dict):
                raise TypeError("expected an object")
            at_s.append(_milliseconds(row["timestamp"]) / 1000.0)
            prompts.append(max(1, token_count(row["input_length"], "input_length")))
            answers.append(max(1, token_count(row["output_length"], "output_length")))
            blocks.append(_ids(row.get("hash_ids")))
        except KeyError as error:
            raise TraceError(f"{name}:{number}: no key {error}") from error
        except (TypeError, ValueError) as error:
            raise TraceError(f"{name}:{number}: {error}") from error
    if not at_s:
        raise TraceError(f"{name}: no request in it")
    order = np.argsort(np.array(at_s), kind="stable")
    times = np.array(at_s, dtype=np.float64)[order]
    known = any(blocks)
    return Trace(
        name=name,
        arrival_s=_spread(times - times[0]),
        prompt_tokens=np.array(prompts, dtype=np.int64)[order],
        output_tokens=np.array(answers, dtype=np.int64)[order],
        blocks=tuple(blocks[place] for place in order) if known else None,
        block_tokens=BLOCK_TOKENS if known else 0,
    )


def _milliseconds(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"timestamp: {value!r} is no number of milliseconds") from None


def _ids(value: Any) -> tuple[int, ...]:
    try:
        return tuple(int(block) for block in value or ())
    except (TypeError, ValueError):
        raise ValueError("hash_ids: expected a list of whole numbers") from None


def _spread(times: Floats) -> Floats:
    instants, starts, counts = np.unique(times, return_index=True, return_counts=True)
    if len(instants) < 2:
        return times
    steps = np.diff(instants, append=instants[-1] + np.median(np.diff(instants)))
    within = np.arange(len(times)) - np.repeat(starts, counts)
    spread = times + within / np.repeat(counts, counts) * np.repeat(steps, counts)
    return np.asarray(spread, dtype=np.float64)
