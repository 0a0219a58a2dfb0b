"""What a pool's own replicas say of their speed and power, taken into the profile.

The step time is linear in its four parameters, so a least-squares fit with forgetting needs only sums. It is
made on ratios to the profile, with a prior that holds each at 1: what the samples say nothing about stays as
it was, and no ratio leaves [1/4, 4], whatever nonsense is reported.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from cluster.entities.performance import PowerCurve, Provenance, ReplicaPerformance
from cluster.performance.power import step_w

RATIO_MAX = 4.0
_PRIOR = 3.0
"""Weight of the profile, in samples."""
_FORGET_SAMPLES = 200.0
_OUTLIER = 3.0
"""A sample that is off by more than this factor from what is believed counts as if it were off by that."""
_PARAMETERS = 4
_IDLE_SEQUENCES = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceSample:
    """One pool over one window, per replica."""

    sequences: float
    """Decoding sequences on average."""
    context_tokens: float
    """Tokens of context that they attended to, all together."""
    itl_s: float | None
    """Mean time between tokens; None if none were made."""
    prefill_tokens: float
    """Prompt tokens computed in the window."""
    window_s: float
    power_w: float | None = None
    """Measured mean power; None where it is not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorState:
    """Sums of the fit."""

    normal: tuple[float, ...] = (0.0,) * (_PARAMETERS * _PARAMETERS)
    """Z'Z, row by row."""
    right: tuple[float, ...] = (0.0,) * _PARAMETERS
    """Z'1."""
    samples: float = 0.0
    idle_ratio: float = 1.0
    """Measured idle power to the profile's."""
    idle_samples: float = 0.0
    busy_ratio: float = 1.0
    """Measured power above idle to the profile's."""
    busy_samples: float = 0.0


def observe(profile: ReplicaPerformance, state: EstimatorState, sample: PerformanceSample) -> EstimatorState:
    """Take in one window.

    Args:
        profile: what was believed before anything was measured.
        state: sums so far.
        sample: of the window; what is not finite or not positive in it is left out.
    """
    if not _is_sound(sample):
        return state
    if sample.itl_s is not None and sample.sequences > 0 and sample.itl_s > 0:
        state = _observe_step(profile, state, sample, sample.itl_s)
    if sample.power_w is not None:
        state = _observe_power(profile, state, sample, sample.power_w)
    return state


def refit(profile: ReplicaPerformance, state: EstimatorState) -> ReplicaPerformance:
    """The profile with what was measured taken in; the profile itself until something was.

    Args:
        profile: what was believed before anything was measured.
        state: sums so far.
    """
    if not (state.samples or state.idle_samples or state.busy_samples):
        return profile
    base, sequence, context, prefill = (float(ratio) for ratio in _ratios(state))
    power = profile.power
    idle_w = power.idle_w * state.idle_ratio
    return replace(
        profile,
        step_base_s=profile.step_base_s * base,
        step_per_sequence_s=profile.step_per_sequence_s * sequence,
        step_per_context_token_s=profile.step_per_context_token_s * context,
        prefill_token_s=profile.prefill_token_s * prefill,
        power=PowerCurve(
            idle_w=idle_w,
            range_w=power.range_w * state.busy_ratio,
            steepness=power.steepness,
            midpoint_log2=power.midpoint_log2,
            prefill_w=max(idle_w, idle_w + (power.prefill_w - power.idle_w) * state.busy_ratio),
        ),
        provenance=Provenance.REFIT,
    )


def _is_sound(sample: PerformanceSample) -> bool:
    numbers = (sample.sequences, sample.context_tokens, sample.prefill_tokens, sample.window_s)
    optional = tuple(value for value in (sample.itl_s, sample.power_w) if value is not None)
    return all(math.isfinite(value) and value >= 0 for value in numbers + optional) and sample.window_s > 0


def _features(profile: ReplicaPerformance, sample: PerformanceSample, itl_s: float) -> np.ndarray:
    """What each parameter of the profile adds to the step: base, sequences, context, prompts."""
    steps = sample.window_s / itl_s
    return np.array(
        [
            profile.step_base_s,
            profile.step_per_sequence_s * sample.sequences,
            profile.step_per_context_token_s * sample.context_tokens,
            profile.prefill_token_s * sample.prefill_tokens / max(1.0, steps),
        ]
    )


def _observe_step(
    profile: ReplicaPerformance, state: EstimatorState, sample: PerformanceSample, itl_s: float
) -> EstimatorState:
    features = _features(profile, sample, itl_s)
    believed_s = float(features @ _ratios(state))
    if believed_s <= 0:
        return state
    heard_s = min(max(itl_s, believed_s / _OUTLIER), believed_s * _OUTLIER)
    row = features / heard_s
    keep = 1.0 - 1.0 / _FORGET_SAMPLES
    normal = keep * np.array(state.normal).reshape(_PARAMETERS, _PARAMETERS) + np.outer(row, row)
    right = keep * np.array(state.right) + row
    return replace(
        state,
        normal=tuple(float(value) for value in normal.ravel()),
        right=tuple(float(value) for value in right),
        samples=keep * state.samples + 1.0,
    )


def _ratios(state: EstimatorState) -> np.ndarray:
    normal = np.array(state.normal).reshape(_PARAMETERS, _PARAMETERS)
    prior = np.eye(_PARAMETERS) * (_PRIOR / _PARAMETERS) * 0.01
    ratios = np.linalg.solve(normal + prior, np.array(state.right) + np.diag(prior))
    return np.clip(ratios, 1.0 / RATIO_MAX, RATIO_MAX)


def _observe_power(
    profile: ReplicaPerformance, state: EstimatorState, sample: PerformanceSample, power_w: float
) -> EstimatorState:
    if sample.sequences < _IDLE_SEQUENCES and sample.prefill_tokens == 0:
        idle_w = profile.power.idle_w
        if idle_w <= 0:
            return state
        count = min(_FORGET_SAMPLES, state.idle_samples + 1.0)
        ratio = _bounded(state.idle_ratio + (power_w / idle_w - state.idle_ratio) / count)
        return replace(state, idle_ratio=ratio, idle_samples=count)
    share = min(1.0, sample.prefill_tokens * profile.prefill_token_s / sample.window_s)
    expected_w = step_w(profile, sequences=sample.sequences, prefill_share=share) - profile.power.idle_w
    if expected_w <= 0:
        return state
    above_w = max(0.0, power_w - profile.power.idle_w * state.idle_ratio)
    count = min(_FORGET_SAMPLES, state.busy_samples + 1.0)
    ratio = _bounded(state.busy_ratio + (above_w / expected_w - state.busy_ratio) / count)
    return replace(state, busy_ratio=ratio, busy_samples=count)


def _bounded(ratio: float) -> float:
    return min(RATIO_MAX, max(1.0 / RATIO_MAX, ratio))
