"""When a prompt is computed elsewhere than where its tokens are made."""

import pytest

from cluster.config.routing import DisaggregationConfig
from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaView, Role
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path, PathChoice
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.disaggregation import choose_path

CONFIG = DisaggregationConfig(uncached_tokens_min=128, prefill_wait_s_max=20.0, ttft_loss_s_max=2.0)


def view(name="p0", role=Role.PREFILL, **changes):
    return ReplicaView(replica_id=ReplicaId(name), pool=PoolName("p"), role=role, **changes)


def signals(**changes):
    long_prompt = {
        "surface": Surface.CHAT,
        "model": "m",
        "tenant": "t",
        "prompt_tokens": 500,
        "splittable": True,
    }
    return RequestSignals(**{**long_prompt, **changes})


def choose(request=None, decode=None, prefill=None, config=CONFIG):
    return choose_path(
        request or signals(),
        decode or view("d0", Role.DECODE),
        [view()] if prefill is None else prefill,
        config,
        now_s=100.0,
    )


def combined(reason):
    return PathChoice(path=Path.COMBINED, reasons=(reason,))


def test_a_long_prompt_is_disaggregated():
    assert choose() == PathChoice(path=Path.DISAGGREGATED, reasons=(Reason.PROMPT_LONG,))


def test_the_switch_turns_it_off():
    config = CONFIG.model_copy(update={"enabled": False})
    assert choose(config=config) == combined(Reason.DISAGGREGATION_OFF)


@pytest.mark.parametrize("role", [Role.COMBINED, Role.PREFILL])
def test_only_a_decode_replica_can_take_a_hand_over(role):
    assert choose(decode=view("d0", role)) == combined(Reason.NOT_SPLITTABLE)


def test_a_request_that_cannot_be_split_is_not():
    assert choose(signals(splittable=False)) == combined(Reason.NOT_SPLITTABLE)


def test_no_output_means_no_decode_phase():
    assert choose(signals(max_output_tokens=0)) == combined(Reason.NO_TOKENS_WANTED)
    assert choose(signals(max_output_tokens=1)).path is Path.DISAGGREGATED


def test_the_threshold_is_inclusive():
    assert choose(signals(prompt_tokens=127)) == combined(Reason.PROMPT_SHORT)
    assert choose(signals(prompt_tokens=128)).path is Path.DISAGGREGATED


def test_what_the_decode_replica_already_holds_does_not_count():
    assert choose(decode=view("d0", Role.DECODE, cached_tokens=372)).path is Path.DISAGGREGATED
    held = view("d0", Role.DECODE, cached_tokens=373)
    assert choose(decode=held) == combined(Reason.PROMPT_CACHED_AT_DECODE)


@pytest.mark.parametrize(
    "prefill",
    [
        [],
        [view(phase=ReplicaPhase.DRAINING)],
        [view(put_aside_until_s=100.5)],
        [view(requests_in_flight=64)],
    ],
)
def test_without_a_usable_prefill_replica_the_decode_replica_does_it(prefill):
    assert choose(prefill=prefill) == combined(Reason.NO_PREFILL_REPLICA)


def test_a_prefill_queue_that_takes_too_long_is_avoided():
    at_limit = view(pending_prefill_tokens=20_000, prefill_tokens_per_s=1000.0)
    over = view(pending_prefill_tokens=20_001, prefill_tokens_per_s=1000.0)
    patient = CONFIG.model_copy(update={"ttft_loss_s_max": 1000.0})
    assert choose(prefill=[at_limit], config=patient).path is Path.DISAGGREGATED
    assert choose(prefill=[over]) == combined(Reason.PREFILL_BUSY)


def test_the_best_usable_prefill_replica_counts():
    busy = view("p0", pending_prefill_tokens=90_000)
    faster = view("p1", pending_prefill_tokens=90_000, prefill_tokens_per_s=30_000.0)
    idle_but_failed = view("p2", put_aside_until_s=500.0)
    patient = CONFIG.model_copy(update={"ttft_loss_s_max": 10.0})
    assert choose(prefill=[busy, faster], config=patient).path is Path.DISAGGREGATED
    assert choose(prefill=[busy, idle_but_failed]) == combined(Reason.PREFILL_BUSY)


def test_a_rate_of_zero_is_a_queue_without_end():
    stuck = view(pending_prefill_tokens=1, prefill_tokens_per_s=0.0)
    assert choose(prefill=[stuck]) == combined(Reason.PREFILL_BUSY)


def test_a_decode_replica_that_would_answer_much_sooner_computes_the_prompt_itself():
    # 500 tokens: 0.5 s here; there 0.5 s of its own and what is ahead.
    just = view(pending_prefill_tokens=2000)
    more = view(pending_prefill_tokens=2001)
    assert choose(prefill=[just]).path is Path.DISAGGREGATED
    assert choose(prefill=[more]) == combined(Reason.PREFILL_SLOWER)


def test_the_pools_speed_counts_not_only_their_queues():
    slow = view(prefill_tokens_per_s=100.0)
    fast = view("d0", Role.DECODE, prefill_tokens_per_s=10_000.0)
    assert choose(decode=fast, prefill=[slow]) == combined(Reason.PREFILL_SLOWER)
    assert choose(decode=fast, prefill=[slow, view("p1")]).path is Path.DISAGGREGATED


def test_long_steps_where_many_decode_count_as_well():
    full = view("d0", Role.DECODE, step_s=0.5)
    assert choose(decode=full, prefill=[view(pending_prefill_tokens=2400)]).path is Path.DISAGGREGATED
