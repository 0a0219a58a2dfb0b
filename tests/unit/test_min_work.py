"""Replica routing: who is chosen, why, and what is said when nobody can be."""

import pytest

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaView, Role
from cluster.entities.reasons import Reason
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.routing.replicas.policies import choose_replica

CONFIG = ReplicaRoutingConfig(decode_weight_s=0.5, tie_s=0.002, stall_weight=0.0)


def view(name, **changes):
    return ReplicaView(replica_id=ReplicaId(name), pool=PoolName("p"), role=Role.DECODE, **changes)


def choose(*candidates, tokens=1000, now_s=100.0, draw=0.0, config=CONFIG):
    signals = RequestSignals(surface=Surface.CHAT, model="m", tenant="t", prompt_tokens=tokens)
    return choose_replica(signals, candidates, config, now_s=now_s, draw=draw)


def test_the_score_is_pending_and_uncached_tokens_over_the_rate_plus_the_share_of_slots():
    choice = choose(
        view(
            "a",
            pending_prefill_tokens=500,
            cached_tokens=300,
            prefill_tokens_per_s=400.0,
            requests_in_flight=16,
            max_concurrent_requests=64,
        )
    )
    assert choice.scores == {"a": pytest.approx((500 + 700) / 400 + 0.5 * 16 / 64)}


def test_a_step_under_what_decodes_there_comes_on_top():
    assert choose(view("a", step_s=0.25)).scores == {"a": pytest.approx(1.0 + 0.25)}


def test_of_two_equal_queues_the_pool_with_the_shorter_steps_is_chosen():
    assert choose(view("a100", step_s=0.03), view("h100", step_s=0.01)).replica_id == "h100"


def test_the_least_work_wins_over_the_fewest_requests():
    choice = choose(
        view("one-huge-prompt", pending_prefill_tokens=12_000, requests_in_flight=1),
        view("many-short", pending_prefill_tokens=200, requests_in_flight=8),
    )
    assert choice.replica_id == "many-short"
    assert choice.reasons == (Reason.LEAST_WORK,)
    assert choice.propensity == 1.0


def test_a_faster_gpu_takes_a_longer_queue():
    choice = choose(
        view("slow", pending_prefill_tokens=500, prefill_tokens_per_s=1000.0),
        view("fast", pending_prefill_tokens=2000, prefill_tokens_per_s=9000.0),
    )
    assert choice.replica_id == "fast"


def test_a_cached_prefix_attracts_until_the_backlog_costs_more():
    warm = {"cached_tokens": 800}
    assert choose(view("cold"), view("warm", **warm, pending_prefill_tokens=700)).replica_id == "warm"
    assert choose(view("cold"), view("warm", **warm, pending_prefill_tokens=900)).replica_id == "cold"


def test_a_chosen_replica_with_the_prefix_says_so():
    choice = choose(view("cold"), view("warm", cached_tokens=800))
    assert choice.reasons == (Reason.LEAST_WORK, Reason.PREFIX_CACHED)


def test_more_cached_than_asked_for_is_not_negative_work():
    assert choose(view("a", cached_tokens=5000)).scores == {"a": 0.0}


def test_the_only_usable_replica_is_named_as_such():
    choice = choose(view("a", pending_prefill_tokens=99_000), view("b", put_aside_until_s=101.0))
    assert (choice.replica_id, choice.reasons) == ("a", (Reason.ONLY_CANDIDATE,))
    assert set(choice.scores) == {"a", "b"}


def test_a_tie_is_broken_by_the_draw_in_order_of_the_ids():
    candidates = [
        view("c"),
        view("a", pending_prefill_tokens=1),
        view("b"),
        view("far", pending_prefill_tokens=50),
    ]
    picks = [choose(*candidates, draw=draw) for draw in (0.0, 0.34, 0.99)]
    assert [pick.replica_id for pick in picks] == ["a", "b", "c"]
    assert {pick.propensity for pick in picks} == {1 / 3}
    assert picks[0].reasons == (Reason.TIE_BROKEN_BY_CHANCE,)


def test_a_replica_is_usable_again_at_the_instant_its_time_aside_ends():
    aside = view("a", put_aside_until_s=100.0)
    assert choose(aside, now_s=99.999).replica_id is None
    assert choose(aside, now_s=100.0).replica_id == "a"


FULL = view("full", requests_in_flight=64, max_concurrent_requests=64)
ASIDE = view("aside", put_aside_until_s=200.0)
DRAINING = view("draining", phase=ReplicaPhase.DRAINING)


@pytest.mark.parametrize(
    ("candidates", "reason", "scored"),
    [
        ([], Reason.NO_REPLICA, set()),
        ([DRAINING], Reason.NO_REPLICA, set()),
        ([FULL], Reason.ALL_FULL, {"full"}),
        ([FULL, DRAINING], Reason.ALL_FULL, {"full"}),
        ([ASIDE], Reason.ALL_PUT_ASIDE, {"aside"}),
        ([ASIDE, FULL], Reason.ALL_PUT_ASIDE, {"aside", "full"}),
    ],
)
def test_nobody_usable_gives_no_replica_but_a_reason(candidates, reason, scored):
    choice = choose(*candidates)
    assert (choice.replica_id, choice.reasons) == (None, (reason,))
    assert set(choice.scores) == scored


def test_a_replica_that_has_not_measured_its_rate_counts_with_the_assumed_one():
    config = CONFIG.model_copy(update={"assumed_prefill_tokens_per_s": 250.0})
    assert choose(view("a", prefill_tokens_per_s=0.0), config=config).scores == {"a": 4.0}


@pytest.mark.parametrize("draw", [-0.1, 1.0, float("nan")])
def test_a_draw_outside_the_unit_interval_is_an_error(draw):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        choose(view("a"), draw=draw)


def test_a_fuller_kv_cache_counts_like_seats():
    choice = choose(view("a", kv_cache_usage=0.8, requests_in_flight=16, max_concurrent_requests=64))
    assert choice.scores == {"a": pytest.approx(1.0 + 0.5 * 0.8)}


def test_where_no_block_is_free_nothing_is_sent_while_another_is_near():
    full = view("full", kv_cache_usage=0.96)
    assert choose(full, view("busy", pending_prefill_tokens=1900)).replica_id == "busy"
    assert choose(full, view("busier", pending_prefill_tokens=2600)).replica_id == "full"


def test_holding_up_answers_under_way_counts_by_how_many_and_for_how_long():
    config = CONFIG.model_copy(update={"decode_weight_s": 0.0, "stall_weight": 0.1})
    # Five decode there; 700 tokens hold them up for 1.75 s each.
    decoding = view(
        "a", requests_in_flight=7, requests_waiting=2, cached_tokens=300, prefill_tokens_per_s=400.0
    )
    assert choose(decoding, config=config).scores == {"a": pytest.approx(1.75 + 0.1 * 5 * 1.75)}
    waiting = view("a", requests_in_flight=7, requests_waiting=7)
    assert choose(waiting, config=config).scores == {"a": pytest.approx(1.0)}


def test_a_long_prompt_goes_where_fewer_answers_are_under_way():
    config = CONFIG.model_copy(update={"decode_weight_s": 0.0, "stall_weight": 0.02})
    busy, quiet = view("busy", requests_in_flight=20), view("quiet", pending_prefill_tokens=300)
    assert choose(busy, quiet, config=config).replica_id == "quiet"
    assert choose(busy, quiet, config=config, tokens=100).replica_id == "busy"
