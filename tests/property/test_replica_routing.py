"""Invariants of replica routing.

The first three hold for every policy, the others for the default, `min_work`.

1. Only a usable candidate is chosen: ready, below its limit, not put aside.
2. Somebody is chosen whenever somebody is usable; otherwise a reason is given.
3. Equal input gives an equal decision, whatever the order of the candidates.
4. Every ready candidate has a score, and no score is negative.
5. More pending work never lowers a score, more cached tokens never raise it.
6. A replica that becomes better and wins already keeps winning.
7. Over evenly spread draws, equal candidates are chosen equally often (no funnel to the first), and the
   propensity says how often.
"""

import math
from collections import Counter
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaView, Role
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.routing.replicas.policies import POLICIES, choose_replica

NOW_S = 1000.0


def request(tokens):
    return RequestSignals(surface=Surface.CHAT, model="m", tenant="t", prompt_tokens=tokens)


TOKENS = st.integers(0, 200_000)
DRAWS = st.floats(0, 1, exclude_max=True)
CONFIGS = st.builds(
    ReplicaRoutingConfig, decode_weight_s=st.floats(0, 10), tie_s=st.one_of(st.just(0.0), st.floats(0, 1))
)


EVERY = st.builds(ReplicaRoutingConfig, policy=st.sampled_from(sorted(POLICIES)), tie_s=st.floats(0, 1))


@st.composite
def fleets(draw, min_size=0):
    ids = draw(st.lists(st.integers(0, 99), min_size=min_size, max_size=12, unique=True))
    return [
        ReplicaView(
            replica_id=ReplicaId(f"r{number:02}"),
            pool=PoolName("pool"),
            role=Role.DECODE,
            phase=draw(st.sampled_from(ReplicaPhase)),
            pending_prefill_tokens=draw(TOKENS),
            requests_in_flight=draw(st.integers(0, 6)),
            requests_waiting=draw(st.integers(0, 6)),
            kv_cache_usage=draw(st.floats(0, 1)),
            decode_tokens=draw(TOKENS),
            max_concurrent_requests=draw(st.integers(1, 5)),
            cached_tokens=draw(TOKENS),
            prefill_tokens_per_s=draw(st.floats(0, 1e6)),
            put_aside_until_s=draw(st.sampled_from([0.0, NOW_S, NOW_S + 0.1])),
        )
        for number in ids
    ]


def usable(replica):
    return (
        replica.phase is ReplicaPhase.READY
        and replica.requests_in_flight < replica.max_concurrent_requests
        and replica.put_aside_until_s <= NOW_S
    )


@given(fleets(), TOKENS, st.one_of(CONFIGS, EVERY), DRAWS)
def test_only_usable_candidates_are_chosen_and_always_one_if_there_is_one(fleet, tokens, config, draw):
    choice = choose_replica(request(tokens), fleet, config, now_s=NOW_S, draw=draw)
    can = {replica.replica_id for replica in fleet if usable(replica)}
    assert (choice.replica_id in can) if can else (choice.replica_id is None)
    assert choice.reasons
    assert 0 < choice.propensity <= 1


@given(fleets(), TOKENS, st.one_of(CONFIGS, EVERY), DRAWS, st.randoms(use_true_random=False))
def test_equal_input_equal_decision_in_any_order(fleet, tokens, config, draw, shuffler):
    shuffled = list(fleet)
    shuffler.shuffle(shuffled)
    one = choose_replica(request(tokens), fleet, config, now_s=NOW_S, draw=draw)
    other = choose_replica(request(tokens), shuffled, config, now_s=NOW_S, draw=draw)
    assert one == other


@given(fleets(), TOKENS, CONFIGS, DRAWS)
def test_ready_candidates_have_scores_that_are_not_negative(fleet, tokens, config, draw):
    scores = choose_replica(request(tokens), fleet, config, now_s=NOW_S, draw=draw).scores
    assert set(scores) == {r.replica_id for r in fleet if r.phase is ReplicaPhase.READY}
    # A rate close to zero may overflow to infinity, never below zero or to no number at all.
    assert all(score >= 0 and not math.isnan(score) for score in scores.values())


@given(fleets(min_size=1), TOKENS, CONFIGS, st.integers(1, 100_000))
def test_scores_follow_the_work(fleet, tokens, config, more):
    replica = replace(fleet[0], phase=ReplicaPhase.READY)

    def score(candidate):
        choice = choose_replica(request(tokens), [candidate], config, now_s=NOW_S, draw=0.0)
        return choice.scores[candidate.replica_id]

    busier = replace(replica, pending_prefill_tokens=replica.pending_prefill_tokens + more)
    warmer = replace(replica, cached_tokens=replica.cached_tokens + more)
    fuller = replace(replica, requests_in_flight=replica.requests_in_flight + more)
    assert score(busier) >= score(replica)
    assert score(warmer) <= score(replica)
    assert score(fuller) >= score(replica)


@given(fleets(min_size=2), TOKENS, CONFIGS, DRAWS, st.integers(1, 100_000))
def test_a_winner_that_gets_a_longer_cached_prefix_still_wins(fleet, tokens, config, draw, more):
    config = config.model_copy(update={"tie_s": 0.0})
    choice = choose_replica(request(tokens), fleet, config, now_s=NOW_S, draw=draw)
    assume(choice.replica_id is not None and choice.propensity == 1.0)
    better = [
        replace(r, cached_tokens=r.cached_tokens + more) if r.replica_id == choice.replica_id else r
        for r in fleet
    ]
    assert (
        choose_replica(request(tokens), better, config, now_s=NOW_S, draw=draw).replica_id
        == choice.replica_id
    )


@given(st.integers(1, 9), st.integers(0, 9), CONFIGS)
def test_equal_candidates_share_evenly_spread_draws(equals, busier, config):
    config = config.model_copy(update={"tie_s": min(config.tie_s, 1.0)})
    idle = ReplicaView(replica_id=ReplicaId(""), pool=PoolName("pool"), role=Role.DECODE)
    fleet = [replace(idle, replica_id=ReplicaId(f"equal{n}")) for n in range(equals)]
    fleet += [
        replace(idle, replica_id=ReplicaId(f"busy{n}"), pending_prefill_tokens=50_000) for n in range(busier)
    ]
    draws = 20 * equals
    choices = [
        choose_replica(request(100), fleet, config, now_s=NOW_S, draw=(n + 0.5) / draws) for n in range(draws)
    ]
    counts = Counter(choice.replica_id for choice in choices)
    assert counts == {f"equal{n}": 20 for n in range(equals)}
    assert {choice.propensity for choice in choices} == {1 / equals}
