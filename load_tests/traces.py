"""Arrivals of an open-loop test: drawn as a Poisson process, or read from a published trace (data.md)."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.simulation.traffic.open import open_trace


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
    """The first arrivals of a trace file in any of the formats of load_tests/data.md, in order of time.

    Raises:
        TraceError: a line does not have the format, or the file cannot be read.
    """
    trace = open_trace((path,), requests_max=requests_max)
    columns = (trace.arrival_s.tolist(), trace.prompt_tokens.tolist(), trace.output_tokens.tolist())
    return [
        Arrival(at_s=at_s, prompt_tokens=prompt, output_tokens=answer)
        for at_s, prompt, answer in zip(*columns, strict=True)
    ]
