"""vllm_sr_sim's workloads: a JSON list of [total tokens, cumulative share], arrivals of a Poisson process."""

from itertools import pairwise
from typing import Any

import numpy as np

from cluster.simulation.traffic.trace import Trace, TraceError, trace_of

_INPUT_SHARE = 0.8
"""Of a request's tokens; the peer's own split."""


def read_length_cdf(name: str, points: Any, *, rate_per_s: float, requests: int, seed: int) -> Trace:
    """Draw requests from a distribution of total lengths, linear between its points.

    Args:
        name: of the file, for messages.
        points: the parsed JSON.
        rate_per_s: of the arrivals.
        requests: how many.
        seed: of the draws.

    Raises:
        TraceError: the points are no distribution.
    """
    try:
        table = [(float(tokens), float(share)) for tokens, share in points]
    except (TypeError, ValueError) as error:
        raise TraceError(f"{name}: expected a list of [tokens, cumulative share]") from error
    rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(table))
    if not table or not rising or not 0.0 < table[-1][1] <= 1.0 + 1e-9 or table[0][0] <= 0:
        raise TraceError(f"{name}: tokens and shares must rise, up to a share of 1")
    rng = np.random.default_rng(seed)
    shares = np.array([0.0, *(share / table[-1][1] for _, share in table)])
    tokens = np.array([min(16.0, table[0][0] / 2.0), *(length for length, _ in table)])
    total = np.interp(rng.random(requests), shares, tokens)
    return trace_of(
        name,
        np.cumsum(rng.exponential(1.0 / rate_per_s, requests)),
        np.floor(total * _INPUT_SHARE),
        np.floor(total * (1.0 - _INPUT_SHARE)),
    )
