"""The two formulas a simulated engine runs on."""

import pytest

from cluster.performance.latency import decode_step_s, prefill_s


def test_prefill_is_tokens_over_rate():
    assert prefill_s(486, 500.0) == pytest.approx(0.972)
    assert prefill_s(0, 500.0) == 0.0


def test_a_decode_step_is_w_plus_h_times_the_batch():
    assert decode_step_s(64, base_s=0.004, per_sequence_s=0.00032) == pytest.approx(0.02448)


@pytest.mark.parametrize(("tokens", "rate"), [(-1, 10.0), (1, 0.0), (1, -5.0), (1, float("nan"))])
def test_impossible_prefills_are_errors(tokens, rate):
    with pytest.raises(ValueError, match="tokens"):
        prefill_s(tokens, rate)


@pytest.mark.parametrize(
    ("batch", "base_s", "per_sequence_s"), [(0, 0.1, 0.1), (1, -0.1, 0.1), (1, 0.1, -0.1)]
)
def test_impossible_steps_are_errors(batch, base_s, per_sequence_s):
    with pytest.raises(ValueError, match=r"batch|times"):
        decode_step_s(batch, base_s=base_s, per_sequence_s=per_sequence_s)
