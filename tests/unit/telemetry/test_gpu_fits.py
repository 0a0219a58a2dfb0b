"""Fits of a measured GPU find what is true; a counter that moves in leaps is read without bias."""

import pytest

from cluster.performance.architectures import model_spec
from cluster.performance.hardware import gpu_spec
from cluster.performance.latency import step_s
from cluster.performance.power import decode_w
from cluster.performance.roofline import derived
from operators.telemetry.gpu_comparison import compared
from operators.telemetry.gpu_fits import (
    DecodePoint,
    counter_power_w,
    fit_power,
    fit_steps,
    fitted,
    logistic_w,
    renewal_s,
)
from operators.telemetry.gpu_load import Shape

H100 = derived(gpu_spec("H100"), model_spec("llama-3.1-8b"), 1)


def _point(batch, context):
    return DecodePoint(
        sequences=batch,
        context_tokens=context,
        step_s=step_s(H100, sequences=batch, context_tokens=batch * context, prefill_tokens=0),
        power_w=decode_w(H100.power, batch),
    )


POINTS = [_point(2**k, 1024) for k in range(9)] + [_point(32, context) for context in (256, 4096, 8192)]


def test_step_terms_are_found():
    found = fit_steps(POINTS)
    assert found.step_base_s == pytest.approx(H100.step_base_s, rel=1e-6)
    assert found.step_per_sequence_s == pytest.approx(H100.step_per_sequence_s, rel=1e-6)
    assert found.step_per_context_token_s == pytest.approx(H100.step_per_context_token_s, rel=1e-6)
    assert found.error_ratio < 1e-9


def test_no_term_becomes_negative():
    points = [DecodePoint(sequences=b, context_tokens=100, step_s=0.01 / b, power_w=1.0) for b in (1, 2, 4)]
    found = fit_steps(points)
    assert min(found.step_base_s, found.step_per_sequence_s, found.step_per_context_token_s) >= 0.0


@pytest.mark.parametrize("limit_w", [None, 700.0])
def test_the_power_curve_is_found(limit_w):
    found = fit_power(POINTS, H100.power.idle_w, limit_w)
    for batch in (1, 10, 200):
        curve_w = logistic_w(batch, found.idle_w, found.range_w, found.steepness, found.midpoint_log2)
        assert curve_w == pytest.approx(decode_w(H100.power, batch), rel=0.01)


def test_the_power_curve_ends_at_the_limit():
    flat = [
        DecodePoint(sequences=b, context_tokens=1, step_s=1.0, power_w=400.0 + 20 * b) for b in range(1, 9)
    ]
    found = fit_power(flat, 100.0, 600.0)
    assert found.idle_w + found.range_w <= 600.0


def test_power_is_fitted_over_one_context():
    assert fitted(POINTS, H100.power.idle_w, 700.0)["power"]["context_tokens"] == 1024


@pytest.mark.parametrize("fit", [fit_steps, lambda points: fit_power(points, 1.0, None)])
def test_too_few_points_are_refused(fit):
    with pytest.raises(ValueError, match="at least 3 points, not 2"):
        fit(POINTS[:2])


def test_a_counter_that_leaps_is_read_over_whole_leaps():
    """500 W, renewed every 0.1 s, read every 0.03 s: the ends of the window lie between leaps."""
    samples = [(0.03 * k, 50.0 * int(0.03 * k / 0.1 + 1e-9)) for k in range(101)]
    assert counter_power_w(samples) == pytest.approx(500.0, rel=0.01)
    assert renewal_s(samples) == pytest.approx(0.1, abs=0.02)


def test_leaps_at_the_ends_of_a_window_do_not_count():
    """Two readings 1.05 s apart see ten or eleven leaps, 5 % apart; whole leaps are 50 J each 0.1 s."""
    samples = [(0.05 * k, 50.0 * ((k + 1) // 2)) for k in range(22)]
    assert (samples[-1][1] - samples[0][1]) / 1.05 == pytest.approx(524, abs=1)
    assert counter_power_w(samples) == pytest.approx(500.0, rel=1e-6)


def test_a_counter_that_stands_says_nothing():
    assert counter_power_w([(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]) is None
    assert counter_power_w([]) is None
    assert renewal_s([(0.0, 1.0)]) is None


def test_the_load_is_as_large_as_the_model_it_stands_for():
    shape, spec = Shape(), model_spec("llama-3.1-8b")
    assert shape.parameters == pytest.approx(spec.parameters, rel=0.01)
    assert shape.kv_token_bytes == spec.kv_token_bytes


def test_what_is_measured_stands_beside_what_is_predicted():
    case = {"sequences": 8, "context_tokens": 1000, "step_s": 0.01, "power_w": 400.0}
    result = {
        "idle": [{"state": "empty", "power_w": 70.0}, {"state": "model loaded", "power_w": 126.0}],
        "decode": [case],
        "prefill": [{"prompt_tokens": 512, "token_s": 3e-5, "power_w": 690.0}],
    }
    rows = {what: (measured, predicted) for what, _, measured, predicted in compared(result, H100)}
    assert rows["idle with a model"] == (126.0, H100.power.idle_w)
    predicted_s = step_s(H100, sequences=8, context_tokens=8000, prefill_tokens=0)
    assert rows["decode, batch 8, context 1,000: step"] == (10.0, pytest.approx(1e3 * predicted_s))
    assert rows["prompt of 512 tokens: power"] == (690.0, H100.power.prefill_w)
