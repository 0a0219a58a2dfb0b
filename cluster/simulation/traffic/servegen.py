"""ServeGen's archives: for each client, windows of its request rate, and distributions of its lengths.

A window says how many requests a client sent (rate) and how unevenly (coefficient of variation of the times
between them, CV). The number is kept, and the times between requests are drawn from a gamma distribution
of that CV and fitted to the window. Where the rate is thinned by a factor f < 1, as many requests as a coin
of that chance leaves remain, and the CV becomes sqrt(f·CV² + 1 − f), which is what independent thinning makes
of a renewal process; the requests that are left out are never drawn, so that two weeks at a thousand requests
per second cost seconds.
"""

import codecs
import csv
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from cluster.simulation.traffic.trace import Floats, Trace, TraceError, trace_of

_CHUNK = re.compile(r"chunk-(\w+)-(trace\.csv|dataset\.json)$")
_INPUT_KINDS = (
    ("input_tokens", None),
    ("text_tokens", None),
    ("image_tokens", "image_count"),
    ("audio_tokens", "audio_count"),
    ("video_tokens", "video_count"),
)
_REQUESTS_MAX = 50_000_000


@dataclass(frozen=True, slots=True)
class _Lengths:
    """One distribution."""

    values: Floats
    cumulative: Floats

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        places = np.searchsorted(self.cumulative, rng.random(count) * self.cumulative[-1])
        drawn: Floats = self.values[np.minimum(places, len(self.values) - 1)]
        return drawn


_Kinds = dict[str, _Lengths]
_Datasets = tuple[tuple[float, _Kinds], ...]


@dataclass(frozen=True, slots=True)
class _Client:
    name: str
    windows: tuple[tuple[float, float, float], ...]
    """(start, requests per second, CV)."""


def read_servegen(
    paths: Sequence[Path],
    *,
    seed: int,
    rate_factor: float = 1.0,
    rate_per_s: float | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
) -> Trace:
    """Draw the requests of all clients in one or several archives or folders of the same service.

    Args:
        paths: archives (`.tar.gz`) or folders; what one lacks another may have.
        seed: of the draws.
        rate_factor: multiplies every rate.
        rate_per_s: wanted mean rate over the span, in place of `rate_factor`.
        start_s: where in the trace to begin.
        duration_s: how much of it to take; None for the rest.

    Raises:
        TraceError: no client in it, or a file does not have the format; the message names it.
    """
    name = "+".join(path.name for path in paths)
    clients, datasets = _read(paths)
    if not clients or not datasets:
        lacking = "chunk-N-trace.csv" if not clients else "chunk-N-dataset.json"
        raise TraceError(f"{name}: no {lacking} in it")
    width_s = _width_s(clients)
    span = (start_s, np.inf if duration_s is None else start_s + duration_s)
    inside = [
        (client.name, [w for w in client.windows if w[1] > 0 and span[0] - width_s < w[0] < span[1]])
        for client in clients
    ]
    total = sum(rate * width_s for _, windows in inside for _, rate, _ in windows)
    if total <= 0:
        raise TraceError(f"{name}: no request between {span[0]} s and {span[1]} s")
    if rate_per_s is not None:
        last_s = max(at_s for _, windows in inside for at_s, _, _ in windows) + width_s
        rate_factor = rate_per_s * (min(span[1], last_s) - start_s) / total
    if total * rate_factor > _REQUESTS_MAX:
        raise TraceError(
            f"{name}: {total * rate_factor:.0f} requests are more than the {_REQUESTS_MAX} that fit; "
            "ask for a lower rate or a shorter span"
        )
    rng = np.random.default_rng(seed)
    pooled = _pooled(datasets)
    parts = [
        part
        for client, windows in inside
        for part in _drawn(windows, datasets.get(client, pooled), width_s, rate_factor, rng)
    ]
    at_s = np.concatenate([part[0] for part in parts])
    kept = (at_s >= span[0]) & (at_s < span[1])
    prompts = np.concatenate([part[1] for part in parts])[kept]
    answers = np.concatenate([part[2] for part in parts])[kept]
    return trace_of(name, at_s[kept] - start_s, prompts, answers)


def _drawn(
    windows: Sequence[tuple[float, float, float]],
    datasets: _Datasets,
    width_s: float,
    factor: float,
    rng: np.random.Generator,
) -> Iterator[tuple[Floats, Floats, Floats]]:
    starts = np.array([at_s for at_s, _ in datasets])
    for at_s, rate, variation in windows:
        expected = rate * width_s
        if factor < 1.0:
            count = int(rng.binomial(round(expected), factor)) if expected >= 0.5 else 0
            variation2 = factor * variation * variation + 1.0 - factor
        else:
            count = int(expected * factor + rng.random())
            variation2 = variation * variation
        if not count:
            continue
        gaps = rng.gamma(1.0 / max(variation2, 1e-3), size=count + 1)
        total = gaps.sum()
        places = np.cumsum(gaps[:-1]) / total if total > 0 else np.sort(rng.random(count))
        kinds = datasets[max(0, int(np.searchsorted(starts, at_s, side="right")) - 1)][1]
        yield at_s + width_s * places, _prompts(kinds, rng, count), kinds["output_tokens"].draw(rng, count)


def _prompts(kinds: _Kinds, rng: np.random.Generator, count: int) -> Floats:
    total = np.zeros(count)
    for kind, times in _INPUT_KINDS:
        if kind in kinds:
            tokens = kinds[kind].draw(rng, count)
            total += tokens * kinds[times].draw(rng, count) if times in kinds else tokens
    return total


def _width_s(clients: Sequence[_Client]) -> float:
    for client in clients:
        if len(client.windows) > 1:
            return client.windows[1][0] - client.windows[0][0]
    return 600.0


def _pooled(datasets: dict[str, _Datasets]) -> _Datasets:
    """For clients without lengths of their own: those of all others together, each alike."""
    merged: dict[str, dict[float, float]] = {}
    for known in datasets.values():
        for kind, lengths in known[0][1].items():
            shares = np.diff(lengths.cumulative, prepend=0.0) / lengths.cumulative[-1]
            table = merged.setdefault(kind, {})
            for value, share in zip(lengths.values.tolist(), shares.tolist(), strict=True):
                table[value] = table.get(value, 0.0) + share
    return ((0.0, {kind: _lengths_of(table) for kind, table in merged.items()}),)


# Files


def _read(paths: Sequence[Path]) -> tuple[list[_Client], dict[str, _Datasets]]:
    clients: dict[str, _Client] = {}
    datasets: dict[str, _Datasets] = {}
    for path in paths:
        for member, content in _members(path):
            found = _CHUNK.search(member)
            if found is None:
                continue
            chunk, kind = found.groups()
            where = f"{path.name}/{member}"
            if kind == "trace.csv":
                clients[chunk] = _client(chunk, where, content)
            elif content.strip() not in (b"", b"{}"):
                datasets[chunk] = _datasets(where, content)
    return [clients[name] for name in sorted(clients, key=lambda name: (len(name), name))], datasets


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if path.is_dir():
            for file in sorted(path.rglob("chunk-*")):
                yield file.name, file.read_bytes()
            return
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                opened = archive.extractfile(member) if member.isfile() else None
                if opened is not None:
                    yield member.name, opened.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise TraceError(f"{path}: {error}") from error


def _client(name: str, where: str, content: bytes) -> _Client:
    windows = []
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError(f"{where}: not UTF-8 text") from error
    for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
        if not row:
            continue
        try:
            windows.append((float(row[0]), float(row[1]), float(row[2])))
        except (IndexError, ValueError) as error:
            raise TraceError(f"{where}:{number}: expected time, rate, CV: {error}") from error
    return _Client(name, tuple(windows))


def _datasets(where: str, content: bytes) -> _Datasets:
    try:
        parsed = orjson.loads(content.removeprefix(codecs.BOM_UTF8))
        found = sorted(
            ((float(at_s), _kinds(kinds)) for at_s, kinds in parsed.items()), key=lambda found: found[0]
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise TraceError(f"{where}: {error}") from error
    # A span in which the client sent nothing has empty distributions.
    usable = tuple((at_s, kinds) for at_s, kinds in found if "output_tokens" in kinds and len(kinds) > 1)
    if not usable:
        raise TraceError(f"{where}: no input and output lengths in it")
    return usable


def _kinds(texts: dict[str, str]) -> _Kinds:
    known = {name for pair in _INPUT_KINDS for name in pair if name} | {"output_tokens"}
    return {kind: _lengths(text) for kind, text in texts.items() if kind in known and ":" in text}


def _lengths(text: str) -> _Lengths:
    pairs = (pair.partition(":") for pair in text.strip().strip("{}").split(","))
    return _lengths_of({float(value): float(share) for value, _, share in pairs})


def _lengths_of(table: dict[float, float]) -> _Lengths:
    return _Lengths(
        np.array(list(table), dtype=np.float64), np.cumsum(np.array(list(table.values()), dtype=np.float64))
    )
