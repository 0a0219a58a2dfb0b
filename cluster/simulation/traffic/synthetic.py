"""Traffic made up from a seed: Poisson or gamma arrivals, steady or shaped, log-normal lengths."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cluster.simulation.traffic.trace import Floats, Ints, Trace, TraceError, trace_of

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthShape:
    """Log-normal lengths."""

    median: float
    sigma: float = 0.0
    """Of the logarithm; 0 makes all alike."""
    longest: int = 16_384

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Draw lengths, in tokens."""
        drawn = self.median * np.exp(self.sigma * rng.standard_normal(count))
        return np.clip(np.round(drawn), 1, self.longest).astype(np.int64)


CHAT_PROMPT = LengthShape(median=700.0, sigma=1.0)
CHAT_ANSWER = LengthShape(median=130.0, sigma=0.8, longest=2048)


def steady(
    *,
    rate_per_s: float,
    requests: int,
    seed: int,
    variation: float = 1.0,
    prompt: LengthShape = CHAT_PROMPT,
    answer: LengthShape = CHAT_ANSWER,
) -> Trace:
    """Arrivals at a constant rate.

    Args:
        rate_per_s: mean.
        requests: how many.
        seed: of the draws.
        variation: coefficient of variation of the times between arrivals; 1 is a Poisson process.
        prompt: lengths of prompts.
        answer: lengths of answers.

    Raises:
        TraceError: the rate or the variation is not positive.
    """
    if not (rate_per_s > 0 and variation > 0):
        raise TraceError(f"rate and variation must be positive, not {rate_per_s} and {variation}")
    rng = np.random.default_rng(seed)
    shape = 1.0 / (variation * variation)
    gaps = rng.gamma(shape, 1.0 / (shape * rate_per_s), requests)
    return trace_of("steady", np.cumsum(gaps), prompt.draw(rng, requests), answer.draw(rng, requests))


def shaped(
    rate_at: Callable[[float], float],
    *,
    rate_max_per_s: float,
    duration_s: float,
    seed: int,
    prompt: LengthShape = CHAT_PROMPT,
    answer: LengthShape = CHAT_ANSWER,
) -> Trace:
    """A Poisson process whose rate changes with time (by thinning one at the highest rate).

    Args:
        rate_at: arrivals per second at a time.
        rate_max_per_s: never exceeded by `rate_at`.
        duration_s: length of the trace.
        seed: of the draws.
        prompt: lengths of prompts.
        answer: lengths of answers.

    Raises:
        TraceError: the highest rate or the duration is not positive.
    """
    if not (rate_max_per_s > 0 and duration_s > 0):
        raise TraceError(f"rate and duration must be positive, not {rate_max_per_s} and {duration_s}")
    rng = np.random.default_rng(seed)
    count = int(rng.poisson(rate_max_per_s * duration_s))
    at_s: Floats = np.sort(rng.random(count) * duration_s)
    rates = np.array([rate_at(float(instant)) for instant in at_s])
    at_s = at_s[rng.random(count) * rate_max_per_s < rates]
    return trace_of("shaped", at_s, prompt.draw(rng, len(at_s)), answer.draw(rng, len(at_s)))


def step(low: float, high: float, at_s: float) -> Callable[[float], float]:
    """A rate that jumps once and stays."""
    return lambda instant: high if instant >= at_s else low


def flash_crowd(low: float, high: float, at_s: float, lasts_s: float) -> Callable[[float], float]:
    """A rate that jumps and falls back."""
    return lambda instant: high if at_s <= instant < at_s + lasts_s else low


def oscillating(low: float, high: float, period_s: float) -> Callable[[float], float]:
    """A rate that goes up and down."""
    middle, swing = (low + high) / 2.0, (high - low) / 2.0
    return lambda instant: middle + swing * math.sin(2.0 * math.pi * instant / period_s)


def diurnal(low: float, high: float) -> Callable[[float], float]:
    """A day: lowest at midnight, highest at noon."""
    return lambda instant: low + (high - low) * (0.5 - 0.5 * math.cos(2.0 * math.pi * instant / _DAY_S))
