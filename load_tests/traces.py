"""Arrivals of an open-loop test: drawn as a Poisson process, or read from a published trace (data.md)."""

import csv
import gzip
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson


class TraceError(ValueError):
    """The file is no trace in a known format; the message names the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of a trace."""

    at_s: float
    """Seconds after the first one."""
    prompt_tokens: int
    output_tokens: int


def poisson(*, requests_per_s: float, prompt_tokens: int, output_tokens: int, seed: int) -> Iterator[Arrival]:
    """Endless arrivals at a mean rate, equal in length."""
    rng = random.Random(seed)
    at_s = 0.0
    while True:
        yield Arrival(at_s=at_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
        at_s += rng.expovariate(requests_per_s)


def read_trace(path: Path, *, requests_max: int) -> list[Arrival]:
    """The first arrivals of a trace file, `*.csv.gz` or `*.jsonl.gz`, in order of time.

    Raises:
        TraceError: a line does not have the format, or the file cannot be read.
    """
    if path.name.endswith(".csv.gz"):
        read = _csv_row
    elif path.name.endswith(".jsonl.gz"):
        read = _json_row
    else:
        raise TraceError(f"{path}: expected *.csv.gz or *.jsonl.gz")
    arrivals = []
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
            rows = (
                csv.DictReader(lines)
                if read is _csv_row
                else ({"line": line} for line in lines if line.strip())
            )
            for number, row in enumerate(itertools.islice(rows, requests_max), start=1):
                try:
                    arrivals.append(read(row))
                except (KeyError, ValueError, TypeError) as error:
                    raise TraceError(f"{path}: record {number}: {error!r}") from error
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    if not arrivals:
        raise TraceError(f"{path}: holds no requests")
    return _spread_ties(sorted(arrivals, key=lambda arrival: arrival.at_s))


def _csv_row(row: dict[str, str]) -> Arrival:
    # The fractions have seven digits, one more than Python reads.
    whole, _, fraction = row["TIMESTAMP"].partition(".")
    at = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return Arrival(
        at_s=at.timestamp() + float(f"0.{fraction or 0}"),
        prompt_tokens=int(row["ContextTokens"]),
        output_tokens=int(row["GeneratedTokens"]),
    )


def _json_row(row: dict[str, str]) -> Arrival:
    data = orjson.loads(row["line"])
    return Arrival(
        at_s=float(data["timestamp"]) / 1000,
        prompt_tokens=int(data["input_length"]),
        output_tokens=int(data["output_length"]),
    )


def _spread_ties(arrivals: list[Arrival]) -> list[Arrival]:
    """Start at zero, and spread requests of one instant up to the next: some traces round to seconds."""
    groups = [list(group) for _, group in itertools.groupby(arrivals, key=lambda arrival: arrival.at_s)]
    first_at_s = groups[0][0].at_s
    spread = []
    for place, group in enumerate(groups):
        begin_s = group[0].at_s
        gap_s = groups[place + 1][0].at_s - begin_s if place + 1 < len(groups) else 0.0
        for rank, arrival in enumerate(group):
            spread.append(
                Arrival(
                    at_s=begin_s - first_at_s + gap_s * rank / len(group),
                    prompt_tokens=arrival.prompt_tokens,
                    output_tokens=arrival.output_tokens,
                )
            )
    return spread
