"""A trace: when requests arrive and how long they are."""

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"
Ints: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"


class TraceError(ValueError):
    """The file is no trace in a known format, or what is asked of it makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in the order of their arrival. All arrays have one entry for each request."""

    name: str
    arrival_s: Floats
    """Seconds after the beginning of the trace, not decreasing, from 0 on."""
    prompt_tokens: Ints
    """At least 1."""
    output_tokens: Ints
    """At least 1."""
    blocks: tuple[tuple[int, ...], ...] | None = None
    """Ids of each prompt's leading blocks; equal ids are equal prefixes. None if nothing is known."""
    block_tokens: int = 0
    """Tokens in one of `blocks`."""

    def __post_init__(self) -> None:
        """Check what every reader must hold.

        Raises:
            TraceError: arrays differ in length, times fall, or a length is not positive.
        """
        lengths = {len(self.arrival_s), len(self.prompt_tokens), len(self.output_tokens)}
        if self.blocks is not None:
            lengths.add(len(self.blocks))
        if len(lengths) != 1:
            raise TraceError(f"{self.name}: arrays of different lengths: {sorted(lengths)}")
        if not len(self.arrival_s):
            return
        if self.arrival_s[0] < 0 or np.any(np.diff(self.arrival_s) < 0):
            raise TraceError(f"{self.name}: arrival times must rise from 0 on")
        if self.prompt_tokens.min() < 1 or self.output_tokens.min() < 1:
            raise TraceError(f"{self.name}: prompts and answers have at least one token")

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """Until the last arrival."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second."""
        return len(self) / self.duration_s if self.duration_s > 0 else 0.0

    def at_rate(self, rate_per_s: float) -> "Trace":
        """The same requests, time stretched or squeezed to a mean rate.

        Raises:
            TraceError: the rate is not positive, or not finite, or all requests come at one instant.
        """
        if not 0 < rate_per_s < math.inf:
            raise TraceError(f"a rate must be positive and finite, not {rate_per_s}")
        if len(self) > 1 and self.duration_s == 0:
            raise TraceError(f"{self.name}: all requests come at one instant, so there is no rate to change")
        return replace(self, arrival_s=self.arrival_s * (self.rate_per_s / rate_per_s))

    def between(self, start_s: float, end_s: float) -> "Trace":
        """The requests of a span, which becomes the new beginning."""
        part = self._of((self.arrival_s >= start_s) & (self.arrival_s < end_s))
        return replace(part, arrival_s=part.arrival_s - start_s)

    def head(self, requests: int) -> "Trace":
        """The first requests."""
        return self._of(np.arange(len(self)) < requests)

    def resampled(self, requests: int, rate_per_s: float, seed: int) -> "Trace":
        """Lengths drawn with replacement from this trace, arrivals of a Poisson process.

        Raises:
            TraceError: the rate is not positive, or there is nothing to draw from.
        """
        if not rate_per_s > 0 or not len(self):
            raise TraceError(f"{self.name}: cannot draw {requests} requests at {rate_per_s} per second")
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, len(self), requests)
        return Trace(
            name=self.name,
            arrival_s=np.cumsum(rng.exponential(1.0 / rate_per_s, requests)),
            prompt_tokens=self.prompt_tokens[drawn],
            output_tokens=self.output_tokens[drawn],
        )

    def _of(self, kept: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> "Trace":
        blocks = self.blocks
        if blocks is not None:
            blocks = tuple(block for block, keep in zip(blocks, kept, strict=True) if keep)
        return replace(
            self,
            arrival_s=self.arrival_s[kept],
            prompt_tokens=self.prompt_tokens[kept],
            output_tokens=self.output_tokens[kept],
            blocks=blocks,
        )


def token_count(text: Any, name: str) -> int:
    """A number of tokens as a file has it; some tools write whole numbers as `374.0`.

    Raises:
        ValueError: it is none; the message names the field.
    """
    try:
        number = float(text)
        if number.is_integer():
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name}: {text!r} is no number of tokens")


def trace_of(
    name: str,
    arrival_s: Floats,
    prompt_tokens: "Ints | Floats",
    output_tokens: "Ints | Floats",
) -> Trace:
    """A trace from arrays in any order and lengths of any type; lengths below 1 become 1."""
    order = np.argsort(arrival_s, kind="stable")
    return Trace(
        name=name,
        arrival_s=np.asarray(arrival_s, dtype=np.float64)[order],
        prompt_tokens=np.maximum(1, np.asarray(prompt_tokens)[order]).astype(np.int64),
        output_tokens=np.maximum(1, np.asarray(output_tokens)[order]).astype(np.int64),
    )
