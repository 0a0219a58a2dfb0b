"""What measured points of a GPU say: mean power from an energy counter, step times, the power curve.

The forms are those of `cluster.entities.performance`: what is measured stands beside what is predicted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePoint:
    """One measured decode batch."""

    sequences: int
    context_tokens: int
    """Of each sequence."""
    step_s: float
    power_w: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFit:
    """step_base_s + step_per_sequence_s·b + step_per_context_token_s·C, C the context of all b together."""

    step_base_s: float
    step_per_sequence_s: float
    step_per_context_token_s: float
    error_ratio: float
    """Mean of |predicted/measured - 1| over the points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFit:
    """idle_w + range_w / (1 + exp(-steepness·(log2 b - midpoint_log2)))."""

    idle_w: float
    """Measured, not fitted."""
    range_w: float
    steepness: float
    midpoint_log2: float
    error_ratio: float


def counter_power_w(samples: Sequence[tuple[float, float]]) -> float | None:
    """Mean power from readings of a counter that moves only now and then, in watts.

    The counter of data-centre GPUs is renewed about ten times a second; between the first and the last
    reading that differ from the one before lies a whole number of renewals.

    Args:
        samples: monotonic seconds and joules, in order.

    Returns:
        None if it moved fewer than twice.
    """
    moved = [now for before, now in pairwise(samples) if now[1] != before[1]]
    if len(moved) < 2:
        return None
    return (moved[-1][1] - moved[0][1]) / (moved[-1][0] - moved[0][0])


def renewal_s(samples: Sequence[tuple[float, float]]) -> float | None:
    """Median time between two movements of a counter, in seconds; None if it moved fewer than twice."""
    moved = [now[0] for before, now in pairwise(samples) if now[1] != before[1]]
    return float(np.median(np.diff(moved))) if len(moved) >= 2 else None


def fit_steps(points: Sequence[DecodePoint]) -> StepFit:
    """The non-negative fit of step times with the least relative error.

    Raises:
        ValueError: fewer points than terms.
    """
    from scipy.optimize import nnls  # noqa: PLC0415 - half a second that `--help` need not wait for

    if len(points) < 3:
        raise ValueError(f"three terms need at least 3 points, not {len(points)}")
    terms = np.array([[1.0, p.sequences, p.sequences * p.context_tokens] for p in points])
    weighted = terms / np.array([[p.step_s] for p in points])
    # Columns of one size: the solver's tolerances are absolute.
    scale = weighted.max(axis=0)
    found, _ = nnls(weighted / scale, np.ones(len(points)))
    terms_s = found / scale
    errors = np.abs(weighted @ terms_s - 1.0)
    return StepFit(
        step_base_s=float(terms_s[0]),
        step_per_sequence_s=float(terms_s[1]),
        step_per_context_token_s=float(terms_s[2]),
        error_ratio=float(errors.mean()),
    )


def logistic_w(sequences: Any, idle_w: float, range_w: float, steepness: float, midpoint_log2: float) -> Any:
    """The power curve over batches, in watts (arXiv 2603.17280, section 3.1)."""
    return idle_w + range_w / (1.0 + np.exp(-steepness * (np.log2(sequences) - midpoint_log2)))


def fit_power(points: Sequence[DecodePoint], idle_w: float, limit_w: float | None) -> PowerFit:
    """The power curve that begins at a measured idle power.

    Args:
        points: one context length, several batches.
        idle_w: model loaded, nothing to do.
        limit_w: what the card is held to, which the curve does not pass; None if that is not known.

    Raises:
        ValueError: fewer points than parameters.
    """
    from scipy.optimize import least_squares  # noqa: PLC0415 - as above

    if len(points) < 3:
        raise ValueError(f"three parameters need at least 3 points, not {len(points)}")
    sequences = np.array([p.sequences for p in points], dtype=float)
    power_w = np.array([p.power_w for p in points])
    highest_w = max(float(power_w.max()) - idle_w, 1.0)
    range_max_w = 3.0 * highest_w if limit_w is None else max(limit_w - idle_w, 1.01 * highest_w)

    def errors(parameters: Any) -> Any:
        return logistic_w(sequences, idle_w, *parameters) / power_w - 1.0

    found = least_squares(
        errors,
        x0=(0.5 * (highest_w + range_max_w), 0.5, 2.0),
        bounds=((0.1 * highest_w, 0.01, -10.0), (range_max_w, 5.0, 12.0)),
        x_scale=(highest_w, 1.0, 1.0),
    )
    range_w, steepness, midpoint_log2 = (float(value) for value in found.x)
    return PowerFit(
        idle_w=idle_w,
        range_w=range_w,
        steepness=steepness,
        midpoint_log2=midpoint_log2,
        error_ratio=float(np.abs(found.fun).mean()),
    )


def fitted(points: Sequence[DecodePoint], idle_w: float, limit_w: float | None) -> dict[str, Any]:
    """Both fits as plain data: steps over all points, power over the context that has the most batches."""
    contexts = [p.context_tokens for p in points]
    common = max(set(contexts), key=contexts.count)
    return {
        "step": asdict(fit_steps(points)),
        "power": {
            **asdict(fit_power([p for p in points if p.context_tokens == common], idle_w, limit_w)),
            "context_tokens": common,
        },
    }
