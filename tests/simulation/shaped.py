"""Traffic whose rate changes with time, for scenarios."""

import math

import numpy as np

from cluster.simulation.traffic.synthetic import CHAT_ANSWER, CHAT_PROMPT
from cluster.simulation.traffic.trace import trace_of


def shaped(rate_at, *, rate_max_per_s, duration_s, seed=0):
    """A Poisson process with a rate by time, thinned from one at the highest rate."""
    rng = np.random.default_rng(seed)
    count = int(rng.poisson(rate_max_per_s * duration_s))
    at_s = np.sort(rng.random(count) * duration_s)
    rates = np.array([rate_at(float(instant)) for instant in at_s])
    at_s = at_s[rng.random(count) * rate_max_per_s < rates]
    return trace_of("shaped", at_s, CHAT_PROMPT.draw(rng, len(at_s)), CHAT_ANSWER.draw(rng, len(at_s)))


def step(low, high, at_s):
    """A rate that jumps once and stays."""
    return lambda instant: high if instant >= at_s else low


def flash_crowd(low, high, at_s, lasts_s):
    """A rate that jumps and falls back."""
    return lambda instant: high if at_s <= instant < at_s + lasts_s else low


def oscillating(low, high, period_s):
    """A rate that goes up and down."""
    middle, swing = (low + high) / 2.0, (high - low) / 2.0
    return lambda instant: middle + swing * math.sin(2.0 * math.pi * instant / period_s)


def diurnal(low, high):
    """A day: lowest at midnight, highest at noon."""
    return lambda instant: low + (high - low) * (0.5 - 0.5 * math.cos(2.0 * math.pi * instant / 86_400.0))
