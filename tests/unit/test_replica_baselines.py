"""The policies of other systems decide by their own formulas, worked out here by hand."""

from collections import Counter

import pytest

from cluster.config.routing import BaselineConfig, ReplicaRoutingConfig
from cluster.entities.pool import PoolName, ReplicaId, ReplicaView, Role
from cluster.entities.reasons import Reason
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.routing.replicas.policies import choose_replica

DRAWS = [(n + 0.5) / 600 for n in range(600)]


def view(name, **changes):
    return ReplicaView(replica_id=ReplicaId(name), pool=PoolName("p"), role=Role.COMBINED, **changes)


def choose(policy, *candidates, tokens=1000, draw=0.0, remembered=None, **settings):
    signals = RequestSignals(surface=Surface.CHAT, model="m", tenant="t", prompt_tokens=tokens)
    config = ReplicaRoutingConfig(policy=policy, **settings)
    return choose_replica(signals, candidates, config, now_s=0.0, draw=draw, remembered=remembered or {})


def frequencies(policy, *candidates, **more):
    choices = [choose(policy, *candidates, draw=draw, **more) for draw in DRAWS]
    propensities = {choice.replica_id: choice.propensity for choice in choices}
    counts = Counter(choice.replica_id for choice in choices)
    # The logged propensity is the frequency over evenly spread draws, or a log could not be evaluated.
    for name, count in counts.items():
        assert count / len(DRAWS) == pytest.approx(propensities[name], abs=0.01)
    return {name: count / len(DRAWS) for name, count in counts.items()}


def test_random_takes_all_equally_whatever_they_carry():
    shares = frequencies("random", view("a"), view("b", requests_in_flight=60), view("c"))
    assert shares == {name: pytest.approx(1 / 3) for name in "abc"}


def test_round_robin_takes_the_longest_ago_and_the_new_one_first():
    fleet = [view("a"), view("b"), view("c")]
    assert choose("round_robin", *fleet, remembered={"a": 3.0, "b": 1.0, "c": 2.0}).replica_id == "b"
    assert choose("round_robin", *fleet, remembered={"a": 3.0, "b": 1.0}).replica_id == "c"


def test_least_requests_counts_requests_and_not_tokens():
    busy = view("long-prompt", requests_in_flight=1, pending_prefill_tokens=90_000)
    assert choose("least_requests", busy, view("b", requests_in_flight=2)).replica_id == "long-prompt"


def test_power_of_two_compares_two_and_knows_its_chances():
    fleet = [view(name, requests_in_flight=count) for name, count in zip("abcd", (0, 3, 3, 9), strict=True)]
    # Of 12 ordered pairs: a wins its 6; b and c win both with d and one of theirs; d wins none.
    assert frequencies("power_of_two", *fleet) == {
        "a": pytest.approx(6 / 12),
        "b": pytest.approx(3 / 12, abs=0.01),
        "c": pytest.approx(3 / 12, abs=0.01),
    }


def test_sglang_follows_a_match_above_half_and_else_takes_the_smallest_tree():
    warm, other = view("warm", cached_tokens=501, requests_in_flight=20), view("other", cached_tokens=100)
    trees = {"warm": 10.0, "other": 90.0}
    assert choose("sglang_cache_aware", warm, other, remembered=trees).replica_id == "warm"
    cooler = view("warm", cached_tokens=500)
    trees = {"warm": 90.0, "other": 10.0}
    assert choose("sglang_cache_aware", cooler, other, remembered=trees).replica_id == "other"


@pytest.mark.parametrize(
    ("loads", "gated"),
    [((33, 0), True), ((32, 0), False), ((400, 365), False), ((403, 365), True)],
)
def test_sglangs_gate_needs_both_differences(loads, gated):
    warm = view("warm", cached_tokens=900, requests_in_flight=loads[0], max_concurrent_requests=1000)
    idle = view("idle", requests_in_flight=loads[1], max_concurrent_requests=1000)
    choice = choose("sglang_cache_aware", warm, idle)
    assert choice.replica_id == ("idle" if gated else "warm")
    assert (Reason.LOAD_IMBALANCED in choice.reasons) is gated


def test_ray_takes_the_shorter_queue_of_the_longest_matches_and_has_no_gate_by_default():
    one, two = (
        view("one", cached_tokens=100, requests_in_flight=50),
        view("two", cached_tokens=100, requests_in_flight=40),
    )
    idle = view("idle", cached_tokens=99)
    assert choose("ray_prefix_affinity", one, two, idle).replica_id == "two"
    gated = {"baselines": BaselineConfig(ray_imbalanced_threshold=5)}
    choices = {choose("ray_prefix_affinity", one, two, idle, draw=d, **gated).replica_id for d in DRAWS}
    assert choices == {"idle", "two"}, "power of two never takes the busiest"
    cold = [view("a", cached_tokens=99), view("b")]
    trees = {"a": 5.0, "b": 4.0}
    assert choose("ray_prefix_affinity", *cold, remembered=trees).replica_id == "b"


def test_aibrix_takes_the_longest_match_within_a_standard_deviation():
    loads = {"a": (600, 8), "b": (500, 1), "c": (0, 0), "d": (0, 0)}
    fleet = [view(n, cached_tokens=c, requests_in_flight=q) for n, (c, q) in loads.items()]
    # Mean 2.25 and deviation 3.34: a with 8 is out, b is the longest match within.
    assert choose("aibrix", *fleet).replica_id == "b"
    busier = [view("a", cached_tokens=600, requests_in_flight=9), *fleet[1:]]
    choice = choose("aibrix", *busier)
    assert choice.replica_id in {"c", "d"}
    assert choice.reasons[0] is Reason.LOAD_IMBALANCED


def test_llm_d_adds_prefix_twice_and_free_memory_and_queue_once():
    a = view("a", cached_tokens=500, kv_cache_usage=0.6, requests_waiting=4)
    b = view("b", cached_tokens=0, kv_cache_usage=0.2, requests_waiting=0)
    c = view("c", cached_tokens=250, kv_cache_usage=0.0, requests_waiting=2)
    scores = choose("llm_d", a, b, c).scores
    assert scores == {
        "a": pytest.approx(1 - (2 * 0.5 + 0.4 + 0.0) / 4),
        "b": pytest.approx(1 - (0.0 + 0.8 + 1.0) / 4),
        "c": pytest.approx(1 - (2 * 0.25 + 1.0 + 0.5) / 4),
    }


def test_dynamos_costs_in_blocks():
    a = view("a", pending_prefill_tokens=320, decode_tokens=640, cached_tokens=480, requests_in_flight=3)
    b = view("b", decode_tokens=3200, requests_in_flight=5)
    prefill = {"a": (320 + 1000 - 480) / 16, "b": 1000 / 16}
    decode = {"a": (640 + 320 + 1000) / 16, "b": (3200 + 1000) / 16}
    assert choose("dynamo", a, b).scores == {n: pytest.approx(prefill[n] + decode[n]) for n in "ab"}
    assert choose("dynamo_lmetric", a, b).scores == {
        "a": pytest.approx(prefill["a"] * 4),
        "b": pytest.approx(prefill["b"] * 6),
    }
    scaled = choose("dynamo", a, b, baselines=BaselineConfig(dynamo_prefill_load_scale=3.0))
    assert scaled.scores == {n: pytest.approx(3 * prefill[n] + decode[n]) for n in "ab"}


def test_preble_exploits_a_long_match_and_explores_by_cost():
    rate = {"prefill_tokens_per_s": 1000.0, "step_s": 0.01}
    warm = view("warm", cached_tokens=501, requests_in_flight=2, **rate)
    idle = view("idle", **rate)
    # 0.4 s and 0.3 s in the window: warm is not beyond 1.5 times idle.
    sent = {"warm": 400.0, "idle": 6000.0}
    choice = choose("preble", warm, idle, remembered=sent, assumed_output_tokens=100)
    assert choice.replica_id == "warm"
    assert choice.scores == {"warm": pytest.approx(0.4 + 2 * 100 * 0.01 + 0.499)}
    cold = view("warm", cached_tokens=500, requests_in_flight=2, **rate)
    explored = choose("preble", cold, idle, remembered={"warm": 400.0, "idle": 300.0}).scores
    assert set(explored) == {"warm", "idle"}


def test_preble_sheds_the_most_loaded_holder():
    rate = {"prefill_tokens_per_s": 1000.0}
    warm, idle = view("warm", cached_tokens=900, **rate), view("idle", **rate)
    choice = choose("preble", warm, idle, remembered={"warm": 1600.0, "idle": 1000.0})
    assert (choice.replica_id, choice.reasons[0]) == ("idle", Reason.LOAD_IMBALANCED)
    choice = choose("preble", warm, idle, remembered={"warm": 1400.0, "idle": 1000.0})
    assert choice.replica_id == "warm"


@pytest.mark.parametrize("scorer", ["prefix", "kv", "queue", "load", "work", "energy"])
def test_every_scorer_prefers_the_better_replica(scorer):
    better = view("better", cached_tokens=500)
    worse = view("worse", kv_cache_usage=0.5, requests_waiting=3, requests_in_flight=3)
    choice = choose("weighted", better, worse, weights={scorer: 1.0})
    if scorer == "energy":
        assert choice.reasons[0] is Reason.TIE_BROKEN_BY_CHANCE, "nobody's energy is known"
    else:
        assert choice.replica_id == "better"
    assert all(0.0 <= score <= 1.0 for score in choice.scores.values())


def test_weights_of_nothing_are_refused():
    with pytest.raises(ValueError, match="give at least one scorer a weight"):
        ReplicaRoutingConfig(weights={"work": 0.0})
