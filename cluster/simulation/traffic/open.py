"""Opens a trace file whatever its format."""

import csv
import gzip
import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import orjson

from cluster.simulation.traffic.azure import HEADER, read_azure
from cluster.simulation.traffic.length_cdf import read_length_cdf
from cluster.simulation.traffic.mooncake import read_mooncake
from cluster.simulation.traffic.servegen import read_servegen
from cluster.simulation.traffic.trace import Trace, TraceError

_UNDERSTOOD = (
    "understood are: CSV with the columns TIMESTAMP,ContextTokens,GeneratedTokens (Azure); JSON lines with "
    "timestamp, input_length, output_length (Mooncake); ServeGen archives or folders with chunk-N-trace.csv "
    "and chunk-N-dataset.json; a JSON list of [tokens, cumulative share] (vllm_sr_sim); each gzipped or not"
)
_DRAWN_REQUESTS = 20_000


def open_trace(
    paths: Sequence[Path],
    *,
    seed: int = 0,
    rate_per_s: float | None = None,
    duration_s: float | None = None,
    start_s: float = 0.0,
    requests_max: int | None = None,
) -> Trace:
    """Read a trace.

    Args:
        paths: one file; of ServeGen, several archives of one service.
        seed: of what the format leaves to chance.
        rate_per_s: wanted mean rate. Requests of a log keep their order and are squeezed or stretched in
            time; a ServeGen service is thinned or multiplied and keeps its time of day; a distribution of
            lengths needs it.
        duration_s: take so much of the trace, in its own time.
        start_s: where to begin, in its own time.
        requests_max: take so many at most; so many are drawn from a distribution.

    Raises:
        TraceError: a file cannot be read, or has no format that is understood.
    """
    if not paths:
        raise TraceError("no trace file given")
    for path in paths:
        if not path.exists():
            raise TraceError(f"{path}: no such file")
    if paths[0].is_dir() or ".tar" in "".join(paths[0].suffixes):
        trace = read_servegen(paths, seed=seed, rate_per_s=rate_per_s, start_s=start_s, duration_s=duration_s)
        return trace if requests_max is None else trace.head(requests_max)
    if len(paths) > 1:
        raise TraceError(f"several files make one trace only of ServeGen; {_UNDERSTOOD}")
    trace, cut = _log(paths[0], seed=seed, rate_per_s=rate_per_s, requests_max=requests_max)
    if cut and (start_s > 0 or duration_s is not None):
        trace = trace.between(start_s, float("inf") if duration_s is None else start_s + duration_s)
    if requests_max is not None:
        trace = trace.head(requests_max)
    if not len(trace):
        raise TraceError(f"{paths[0]}: no request in the span that was asked for")
    return trace.at_rate(rate_per_s) if cut and rate_per_s is not None else trace


def _log(path: Path, *, seed: int, rate_per_s: float | None, requests_max: int | None) -> tuple[Trace, bool]:
    """The trace, and whether it has times of its own that can be cut and stretched."""
    try:
        with _opened(path) as lines:
            skipped, start = _first_line(lines)
            if not start:
                raise TraceError(f"{path}: is empty")
            everything = itertools.chain(skipped, (start,), lines)
            if not start.startswith(("{", "[")) and any(name in start for name in HEADER):
                return read_azure(path.name, itertools.chain((start,), lines)), True
            if start.startswith("["):
                if rate_per_s is None:
                    raise TraceError(f"{path}: a distribution of lengths has no arrivals; give a rate")
                points = orjson.loads("".join(everything))
                count = requests_max or _DRAWN_REQUESTS
                drawn = read_length_cdf(path.name, points, rate_per_s=rate_per_s, requests=count, seed=seed)
                return drawn, False
            if start.startswith("{") and "input_length" in start:
                return read_mooncake(path.name, everything), True
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not UTF-8 text (byte {error.object[error.start]:#04x})") from error
    except (OSError, EOFError, zlib.error, csv.Error, orjson.JSONDecodeError) as error:
        raise TraceError(f"{path}: {error}") from error
    raise TraceError(f"{path}: not a trace; {_UNDERSTOOD}")


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if zipped:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _first_line(lines: IO[str]) -> tuple[list[str], str]:
    """The blank lines at the beginning, and the first that is not; empty if there is none."""
    skipped: list[str] = []
    for line in lines:
        if line.strip():
            return skipped, line.lstrip()
        skipped.append(line)
    return skipped, ""
