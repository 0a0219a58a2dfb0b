"""Percentiles with intervals, by a bootstrap over requests.

Gaps between tokens of one answer are alike, so gaps are not drawn one by one: a request is drawn with all its
gaps (a cluster bootstrap; Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
_RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile and where it probably lies."""

    value: float
    low: float
    high: float


def percentile_intervals(
    groups: Sequence[Sequence[float]], shares: Sequence[float], *, seed: int, resamples: int = _RESAMPLES
) -> dict[float, Interval]:
    """Percentiles of all values, with intervals of `LEVEL` (percentile bootstrap).

    Args:
        groups: the values of each request; one, or one for each gap.
        shares: wanted percentiles, 0..1.
        seed: of the bootstrap.
        resamples: how many times requests are drawn.

    Returns:
        By share; empty if there are no values.
    """
    sizes = np.array([len(group) for group in groups])
    if not sizes.sum():
        return {}
    values = np.concatenate([np.asarray(group, dtype=np.float64) for group in groups if len(group)])
    owners = np.repeat(np.arange(len(groups)), sizes)
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(shares)))
    for number in range(resamples):
        counts = np.bincount(rng.integers(0, len(groups), len(groups)), minlength=len(groups))
        upto = np.cumsum(counts[owners])
        if not upto[-1]:  # only requests without values were drawn
            drawn[number] = np.nan
            continue
        places = np.searchsorted(upto, np.array(shares) * (upto[-1] - 1), side="right")
        drawn[number] = values[np.minimum(places, len(values) - 1)]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail], axis=0)
    exact = np.quantile(values, shares)
    return {
        share: Interval(float(exact[place]), float(low[place]), float(high[place]))
        for place, share in enumerate(shares)
    }
