"""Traffic made up from a seed: Poisson or gamma arrivals at a constant rate, log-normal lengths."""

from dataclasses import dataclass

import numpy as np

from cluster.simulation.traffic.trace import Ints, Trace, TraceError, trace_of


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
