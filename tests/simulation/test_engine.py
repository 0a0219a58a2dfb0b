"""The virtual engine: closed forms against single steps, and the schedule worked out by hand."""

import random

import pytest

from cluster.simulation.engine import VirtualEngine
from cluster.simulation.request import SimulatedRequest


@pytest.mark.parametrize("seed", range(24))
def test_segments_in_closed_form_give_what_single_steps_give(seed, performance, requests_of, drive):
    rng = random.Random(seed)
    engine_performance = performance(
        kv_tokens_max=rng.choice([3_000, 20_000, 100_000]),
        sequences_max=rng.choice([4, 64, 256]),
        batch_tokens_max=rng.choice([64, 512, 2048]),
        kv_block_tokens=rng.choice([16, 128]),
    )
    requests, again = requests_of(seed, 150), requests_of(seed, 150)
    jumped, jumped_until_s = drive(requests, engine_performance)
    stepped, stepped_until_s = drive(again, engine_performance, single_steps=True)
    assert jumped.preemptions == stepped.preemptions
    for one, other in zip(requests, again, strict=True):
        assert one.first_token_at_s == pytest.approx(other.first_token_at_s, abs=1e-9)
        assert one.ended_at_s == pytest.approx(other.ended_at_s, abs=1e-9)
    energy_j = jumped.meter.energy_j(jumped_until_s)
    assert energy_j == pytest.approx(stepped.meter.energy_j(stepped_until_s), rel=1e-9)
    counted, again_counted = jumped.meter.counters(), stepped.meter.counters()
    assert (counted.output_tokens, counted.token_gaps) == (
        again_counted.output_tokens,
        again_counted.token_gaps,
    )
    assert counted.token_gaps_s == pytest.approx(again_counted.token_gaps_s)


def test_some_of_those_runs_preempt(performance, requests_of, drive):
    engine, _ = drive(requests_of(1, 150), performance(kv_tokens_max=3_000))
    assert engine.preemptions > 10


def test_every_token_is_counted_once_even_with_preemptions(performance, requests_of, drive):
    requests = requests_of(2, 200)
    engine, _ = drive(requests, performance(kv_tokens_max=3_000))
    assert engine.preemptions
    assert engine.meter.output_tokens == sum(request.output_tokens for request in requests)
    assert engine.kv.used == 0
    assert engine.context_tokens == 0


def test_a_request_alone_takes_its_prefill_and_one_step_a_token(performance, drive):
    request = SimulatedRequest(0, "m", 1.0, 1000, 11)
    numbers = performance(step_base_s=0.01, step_per_context_token_s=0.0, prefill_token_s=2e-5)
    drive([request], numbers)
    # 1,000 tokens in chunks of 512 and 488: two steps; then ten decode steps.
    assert request.ttft_s == pytest.approx(2 * 0.01 + 1000 * 2e-5)
    assert request.tpot_s == pytest.approx(0.01)


def test_prompts_share_the_token_budget_of_a_step(performance, drive):
    numbers = performance(step_base_s=0.01, step_per_context_token_s=0.0, prefill_token_s=0.0)
    requests = [SimulatedRequest(index, "m", 0.0, 256, 1) for index in range(4)]
    drive(requests, numbers)
    # The first is alone in the first step; of the others, two fit into the next one.
    assert [request.ttft_s for request in requests] == pytest.approx([0.01, 0.02, 0.02, 0.03])


def test_a_decoding_request_is_slowed_by_the_prompt_beside_it(performance, drive):
    numbers = performance(step_base_s=0.01, step_per_context_token_s=0.0, prefill_token_s=1e-4)
    first = SimulatedRequest(0, "m", 0.0, 1, 21)
    second = SimulatedRequest(1, "m", 0.095, 500, 1)
    drive([first, second], numbers)
    assert first.ended_at_s == pytest.approx(21 * 0.01 + 1e-4 + 500 * 1e-4)


def test_a_full_batch_makes_others_wait(performance, drive):
    numbers = performance(
        step_base_s=0.01, step_per_context_token_s=0.0, prefill_token_s=0.0, sequences_max=2
    )
    requests = [SimulatedRequest(index, "m", 0.0, 1, 10) for index in range(3)]
    drive(requests, numbers)
    assert requests[2].first_token_at_s > min(requests[0].ended_at_s, requests[1].ended_at_s)


def test_the_request_that_joined_last_is_preempted_and_computed_again(performance, drive):
    numbers = performance(kv_tokens_max=64, step_per_context_token_s=0.0, prefill_token_s=0.0)
    first = SimulatedRequest(0, "m", 0.0, 16, 40)
    second = SimulatedRequest(1, "m", 0.0, 16, 30)
    engine, _ = drive([first, second], numbers)
    assert engine.preemptions == 1
    assert first.ended_at_s < second.ended_at_s
    assert engine.meter.prefill_tokens > 32


def test_a_ticket_spares_the_prompt(performance):
    numbers = performance(step_base_s=0.01, step_per_context_token_s=0.0, prefill_token_s=1.0)
    engine = VirtualEngine(numbers, now_s=0.0)
    request = SimulatedRequest(0, "m", 0.0, 1000, 3)
    request.computed_tokens = 1000
    engine.submit(request, 0.0)
    engine.begin(0.0)
    while engine.active:
        engine.end(engine.segment.ends_at_s)
        engine.begin(engine.segment.ends_at_s)
    assert request.first_token_at_s == pytest.approx(0.01)
    assert request.ended_at_s == pytest.approx(0.03)
    assert engine.meter.prefill_tokens == 0


def test_an_engine_that_hands_over_keeps_the_blocks_until_they_are_pulled(performance):
    engine = VirtualEngine(performance(), now_s=0.0, hands_over=True)
    request = SimulatedRequest(0, "m", 0.0, 100, 30)
    engine.submit(request, 0.0)
    engine.begin(0.0)
    ended = engine.end(engine.segment.ends_at_s)
    assert ended.prefilled == [request]
    assert request.first_token_at_s < 0.0
    assert engine.kv.used == 7
    engine.release(request)
    assert engine.kv.used == 0


def test_a_prefix_that_is_held_is_not_computed_again(performance):
    engine = VirtualEngine(performance(), now_s=0.0, trace_block_tokens=64)
    now_s = 0.0
    for index, blocks in enumerate([(1, 2, 3), (1, 2, 9)]):
        request = SimulatedRequest(index, "m", now_s, 192, 1, blocks=blocks)
        engine.submit(request, now_s)
        engine.begin(now_s)
        now_s = engine.segment.ends_at_s
        assert engine.end(now_s).finished == [request]
    assert request.cached_tokens == 128
    assert engine.meter.prefill_tokens == 192 + 64


def test_idle_power_counts_too(performance):
    engine = VirtualEngine(performance(), now_s=5.0)
    assert engine.meter.energy_j(15.0) == pytest.approx(1_000.0)


def test_a_dead_engine_gives_everything_back_and_draws_nothing(performance):
    engine = VirtualEngine(performance(), now_s=0.0)
    requests = [SimulatedRequest(index, "m", 0.0, 10, 100) for index in range(3)]
    for request in requests:
        engine.submit(request, 0.0)
    engine.begin(0.0)
    engine.end(engine.segment.ends_at_s)
    engine.begin(engine.segment.ends_at_s)
    assert engine.fail(0.2) == requests
    energy_j = engine.meter.energy_j(0.2)
    assert engine.meter.energy_j(100.0) == energy_j
    assert all(request.produced_tokens > 1 for request in requests)


def test_what_can_never_fit_is_known_beforehand(performance):
    engine = VirtualEngine(performance(kv_tokens_max=64), now_s=0.0)
    assert engine.can_ever_hold(SimulatedRequest(0, "m", 0.0, 32, 32))
    assert not engine.can_ever_hold(SimulatedRequest(0, "m", 0.0, 33, 32))
