"""The online fit converges to what is true and never leaves its bounds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.entities.performance import Provenance
from cluster.performance.architectures import model_spec
from cluster.performance.estimator import RATIO_MAX, EstimatorState, PerformanceSample, observe, refit
from cluster.performance.hardware import gpu_spec
from cluster.performance.latency import step_s
from cluster.performance.power import step_w
from cluster.performance.roofline import derived
from tests.examples import examples

PROFILE = derived(gpu_spec("H100"), model_spec("llama-3.1-8b"), 1)


def _true(ratios):
    fields = ("step_base_s", "step_per_sequence_s", "step_per_context_token_s", "prefill_token_s")
    return replace(PROFILE, **{f: getattr(PROFILE, f) * r for f, r in zip(fields, ratios, strict=True)})


@given(ratios=st.tuples(*[st.floats(0.4, 2.5)] * 4), seed=st.integers(0, 99))
@settings(max_examples=examples(25), deadline=None)
def test_step_times_come_within_five_per_cent_where_there_were_samples(ratios, seed):
    true, state, rng = _true(ratios), EstimatorState(), np.random.default_rng(seed)
    for _ in range(300):
        sequences = float(rng.uniform(1, 150))
        context = sequences * float(rng.uniform(200, 3_000))
        prompts = float(rng.uniform(0, 400))
        itl_s = step_s(true, sequences=sequences, context_tokens=context, prefill_tokens=prompts)
        sample = PerformanceSample(
            sequences=sequences,
            context_tokens=context,
            itl_s=itl_s * float(rng.normal(1.0, 0.01)),
            prefill_tokens=prompts * 10.0 / itl_s,
            window_s=10.0,
        )
        state = observe(PROFILE, state, sample)
    fitted = refit(PROFILE, state)
    assert fitted.provenance is Provenance.REFIT
    for sequences, context, prompts in ((10, 5_000, 50), (60, 100_000, 200), (120, 200_000, 0)):
        point = {"sequences": sequences, "context_tokens": context, "prefill_tokens": prompts}
        assert step_s(fitted, **point) == pytest.approx(step_s(true, **point), rel=0.05)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1e3, 1e12)


@given(
    samples=st.lists(
        st.builds(
            PerformanceSample,
            sequences=numbers,
            context_tokens=numbers,
            itl_s=st.none() | numbers,
            prefill_tokens=numbers,
            window_s=numbers,
            power_w=st.none() | numbers,
        ),
        max_size=40,
    )
)
@settings(deadline=None)
def test_nonsense_never_leads_out_of_the_bounds(samples):
    state = EstimatorState()
    for sample in samples:
        state = observe(PROFILE, state, sample)
    fitted = refit(PROFILE, state)
    for field in ("step_base_s", "step_per_sequence_s", "step_per_context_token_s", "prefill_token_s"):
        ratio = getattr(fitted, field) / getattr(PROFILE, field)
        assert 1 / RATIO_MAX - 1e-9 <= ratio <= RATIO_MAX + 1e-9
    assert (
        PROFILE.power.idle_w / RATIO_MAX - 1e-9
        <= fitted.power.idle_w
        <= PROFILE.power.idle_w * RATIO_MAX + 1e-9
    )
    assert fitted.power.prefill_w >= fitted.power.idle_w


def test_measured_power_is_taken_over():
    state = EstimatorState()
    for _ in range(50):
        idle = PerformanceSample(
            sequences=0,
            context_tokens=0,
            itl_s=None,
            prefill_tokens=0,
            window_s=5,
            power_w=PROFILE.power.idle_w * 0.6,
        )
        busy_w = PROFILE.power.idle_w * 0.6 + 0.8 * (
            step_w(PROFILE, sequences=40, prefill_share=0.0) - PROFILE.power.idle_w
        )
        busy = PerformanceSample(
            sequences=40, context_tokens=40_000, itl_s=None, prefill_tokens=0, window_s=5, power_w=busy_w
        )
        state = observe(PROFILE, observe(PROFILE, state, idle), busy)
    fitted = refit(PROFILE, state)
    assert fitted.power.idle_w == pytest.approx(PROFILE.power.idle_w * 0.6, rel=0.02)
    assert fitted.power.range_w == pytest.approx(PROFILE.power.range_w * 0.8, rel=0.02)


def test_until_something_is_measured_the_profile_stands():
    assert refit(PROFILE, EstimatorState()) == PROFILE
