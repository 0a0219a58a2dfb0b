"""The arithmetic of load_tests.simulator_validity; engines are for its user to start."""

import random
from dataclasses import astuple, replace

import numpy as np
import pytest

from cluster.simulation.traffic.trace import Trace
from load_tests.validity.calibration import (
    Sample,
    StepTimes,
    decode_sample,
    errors,
    fit,
    mixed_sample,
    open_samples,
)
from load_tests.validity.closed_forms import closed_form_row, erlang_c_s, pollaczek_khinchine_s, queues
from load_tests.validity.comparison import (
    OUTPUT_TOKENS_MIN,
    PROMPT_TOKENS_MAX,
    Latencies,
    compared,
    simulated,
    slower,
    synthetic_slice,
    traced_slice,
    utilisation,
)
from load_tests.validity.engine import SEQUENCES_MAX, Answer

TRUE = StepTimes(
    step_base_s=0.05,
    step_per_sequence_s=0.002,
    step_per_context_token_s=1e-5,
    prefill_token_s=0.0026,
    first_token_s=0.004,
)


def _samples(times, *, noise=0.0, seed=0):
    rng = random.Random(seed)
    made = [
        Sample(
            kind="decode",
            took_s=1.0,
            steps=12,
            sequence_steps=12 * batch,
            context_tokens=12 * batch * context,
        )
        for batch in (1, 2, 4, 8)
        for context in (16, 200)
    ]
    made += [
        Sample(kind="prefill", took_s=1.0, steps=1 + prompt // 257, prompt_tokens=prompt, first_token=True)
        for prompt in (8, 64, 200, 300)
    ]
    return [replace(sample, took_s=times.of(sample) * (1.0 + rng.uniform(-noise, noise))) for sample in made]


def _answer(*tokens_at_s, arrived_at_s=0.0):
    return Answer(arrived_at_s=arrived_at_s, tokens_at_s=tokens_at_s)


def test_the_fit_recovers_the_numbers_that_made_the_samples():
    found = fit(_samples(TRUE))
    assert astuple(found) == pytest.approx(astuple(TRUE), rel=1e-6)
    assert errors(_samples(TRUE), found) == pytest.approx({"decode": 0.0, "prefill": 0.0}, abs=1e-9)


def test_the_fit_withstands_noise_and_never_goes_below_zero():
    free = replace(TRUE, step_per_context_token_s=0.0, first_token_s=0.0)
    for seed in range(20):
        found = fit(_samples(free, noise=0.03, seed=seed))
        assert found.step_base_s == pytest.approx(free.step_base_s, rel=0.06)
        assert found.prefill_token_s == pytest.approx(free.prefill_token_s, rel=0.06)
        assert min(astuple(found)) >= 0.0


def test_too_few_samples_say_nothing():
    for few in ([], _samples(TRUE)[:4]):
        with pytest.raises(ValueError, match="say too little"):
            fit(few)


def test_a_batch_is_measured_while_all_of_it_decodes():
    """The second joins at 1.3 s; the first is over at 1.6 s."""
    first = _answer(1.0, 1.1, 1.3, 1.4, 1.5, 1.6)
    second = _answer(1.301, 1.401, 1.501, 1.601, 1.69, 1.78)
    sample = decode_sample([first, second], prompt_tokens=10)
    assert (sample.steps, sample.sequence_steps) == (3, 6)
    assert sample.took_s == pytest.approx(0.3)
    # The first step attends to 13 and 11 tokens, each later one to two more.
    assert sample.context_tokens == 24 + 26 + 28


def test_a_batch_that_never_decodes_together_gives_no_sample():
    assert decode_sample([_answer(1.0, 1.1), _answer(1.3, 1.4)], prompt_tokens=10) is None


def test_a_prompt_among_decoding_sequences_is_the_gap_that_its_first_token_ends():
    decoding = [_answer(1.0, 1.1, 1.2, 1.6, 1.7), _answer(1.1, 1.2, 1.6, 1.7)]
    sample = mixed_sample(decoding, 30, _answer(1.601), 120)
    assert sample.took_s == pytest.approx(0.4)
    assert (sample.steps, sample.sequence_steps, sample.prompt_tokens) == (1, 2, 120)
    assert sample.context_tokens == 33 + 32
    assert mixed_sample(decoding, 30, _answer(1.9), 120) is None, "they were over"


def test_errors_are_relative_and_signed():
    real = Latencies([1.0, 2.0, 3.0], [0.1, 0.1, 0.1])
    model = Latencies([1.1, 2.2, 3.3], [0.05, 0.05, 0.05])
    found = compared(real, model)
    assert found["ttft_p50_error"] == pytest.approx(0.1)
    assert found["ttft_p95_error"] == pytest.approx(0.1)
    assert found["tpot_p95_error"] == pytest.approx(-0.5)
    assert found["real_ttft_p50_s"] == 2.0


def test_the_simulation_takes_the_fitted_times():
    trace = Trace(
        name="one", arrival_s=np.array([0.0]), prompt_tokens=np.array([100]), output_tokens=np.array([3])
    )
    alone = replace(TRUE, step_per_sequence_s=0.0, step_per_context_token_s=0.0)
    found = simulated(trace, alone)
    assert found.ttft_s == pytest.approx([0.05 + 100 * 0.0026 + 0.004])
    assert found.tpot_s == pytest.approx([0.05])


def test_utilisation_is_that_of_full_batches():
    trace = Trace(
        name="two",
        arrival_s=np.array([0.0, 2.0]),
        prompt_tokens=np.array([100, 100]),
        output_tokens=np.array([16, 16]),
    )
    alone = replace(TRUE, step_per_sequence_s=0.0, step_per_context_token_s=0.0)
    expected_s = 2 * (100 * 0.0026 + 16 * 0.05 / SEQUENCES_MAX)
    assert utilisation(trace, alone) == pytest.approx(expected_s / 2.0)


def test_slices_are_seeded_and_within_what_the_engine_computes():
    one, same, other = (synthetic_slice(seed=seed, requests=200, rate_per_s=1.5) for seed in (0, 0, 1))
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert not np.array_equal(one.arrival_s, other.arrival_s)
    assert one.prompt_tokens.max() <= PROMPT_TOKENS_MAX
    assert one.output_tokens.min() >= OUTPUT_TOKENS_MIN


def test_a_trace_is_cut_into_slices_and_scaled(tmp_path):
    path = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{second:02d}.0000000,{100 * (second + 1)},100" for second in range(40)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    part = traced_slice(path, number=1, requests=20, rate_per_s=2.0, length_scale=10.0)
    assert len(part) == 20
    assert part.arrival_s[0] == 0.0
    assert part.rate_per_s == pytest.approx(2.0)
    assert list(part.prompt_tokens[:2]) == [210, 220]
    assert set(part.output_tokens) == {10}


def test_the_formulas_agree_where_they_describe_the_same_queue():
    """With one server and exponential service, M/M/c is M/G/1."""
    assert erlang_c_s(1, 1.4, 0.5) == pytest.approx(pollaczek_khinchine_s(1.4, 0.5, 2 * 0.5**2))


def test_a_short_run_is_near_theory():
    constant = next(queue for queue in queues() if "constant" in queue.name)
    row = closed_form_row(constant, seed=0, requests=6_000)
    assert abs(row["wait_error"]) < 0.15


def test_steps_of_an_open_loop_are_taken_where_their_composition_is_certain():
    """The second prompt is computed in the step that ends at 1.5 s; the third comes after an idle time."""
    first = _answer(1.0, 1.1, 1.2, 1.5, 1.6, 1.7)
    second = _answer(1.501, 1.601, 1.701)
    third = _answer(5.0, 5.1)
    found = open_samples([(first, 10), (second, 50), (third, 10)])
    assert [(round(sample.took_s, 6), sample.prompt_tokens) for sample in found] == [(0.3, 50)]
    assert (found[0].sequence_steps, found[0].context_tokens) == (1, 13)
    alone = open_samples([(first, 10)])
    assert [sample.context_tokens for sample in alone] == [12, 13, 14], "not beside its own prompt's step"


def test_a_machine_that_became_slower_is_told_from_a_wrong_schedule():
    trace = Trace(
        name="one", arrival_s=np.array([0.0]), prompt_tokens=np.array([100]), output_tokens=np.array([6])
    )
    alone = replace(TRUE, step_per_sequence_s=0.0, step_per_context_token_s=0.0)
    answer = _answer(*(0.3 + 0.06 * place for place in range(6)))
    ratio = slower([answer], trace, alone)
    assert ratio == pytest.approx(1.2)
    assert alone.scaled(ratio).step_base_s == pytest.approx(0.06)
    with pytest.raises(ValueError, match="no step"):
        slower([_answer(0.3, 0.4)], trace, alone)
