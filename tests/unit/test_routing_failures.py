"""Failures that other routers' users reported, and that must not happen here.

Each test names the report. The policy under test is the default, where a report is of one that users rely on.
"""

from collections import Counter

import pytest

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaView, Role
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.routing.replicas.memory import ReplicaMemory
from cluster.policy.routing.replicas.policies import POLICIES, choose_replica
from cluster.policy.routing.replicas.prefix_index import block_hashes

RATE = 10_000.0


def view(name, **changes):
    return ReplicaView(
        replica_id=ReplicaId(name),
        pool=PoolName("p"),
        role=Role.COMBINED,
        **{"prefill_tokens_per_s": RATE, **changes},
    )


def request(tokens=8000, **changes):
    return RequestSignals(surface=Surface.CHAT, model="m", tenant="t", prompt_tokens=tokens, **changes)


def choose(*candidates, policy="min_work", tokens=8000, draw=0.0):
    config = ReplicaRoutingConfig(policy=policy)
    return choose_replica(request(tokens), candidates, config, now_s=10.0, draw=draw)


def test_imbalance_elsewhere_does_not_turn_affinity_off():
    """vllm-project/router#238, sgl-project/sglang#32195: one global gate took affinity from everybody."""
    hot = view("hot", pending_prefill_tokens=90_000, requests_in_flight=60)
    warm, cold = view("warm", cached_tokens=7000, requests_in_flight=2), view("cold")
    assert choose(hot, warm, cold).replica_id == "warm"
    # SGLang's own gate, kept as it is in the baseline, shows the failure.
    assert choose(hot, warm, cold, policy="sglang_cache_aware").replica_id == "cold"


def test_a_miss_never_goes_to_a_loaded_replica():
    """sgl-project/sglang PRs #14305 and #14532: misses went to the smallest tree however loaded it was."""
    loaded = view("smallest-tree", pending_prefill_tokens=50_000, requests_in_flight=30)
    idle = view("idle")
    assert choose(loaded, idle).replica_id == "idle"
    assert choose(loaded, view("warm-elsewhere", cached_tokens=10), idle).replica_id != "smallest-tree"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "state",
    [{"phase": ReplicaPhase.DRAINING}, {"put_aside_until_s": 99.0}],
    ids=["draining", "put aside"],
)
def test_an_unusable_replicas_load_changes_nothing(policy, state):
    """vllm-project/router#254: an unhealthy worker's load still counted in the balance of the others."""
    fleet = [
        view("a", cached_tokens=4500, requests_in_flight=3),
        view("b", requests_in_flight=1),
        view("c", pending_prefill_tokens=3000, requests_in_flight=2),
    ]
    for load in (0, 60):
        gone = view("gone", requests_in_flight=load, pending_prefill_tokens=load * 1000, **state)
        for draw in (0.0, 0.3, 0.6, 0.9):
            with_it = choose(*fleet, gone, policy=policy, draw=draw)
            without = choose(*fleet, policy=policy, draw=draw)
            assert with_it.replica_id == without.replica_id
            assert with_it.propensity == without.propensity


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_replicas_share_traffic_equally(policy):
    """vllm-project/router PR #198: the first of equals got everything."""
    fleet = [view(name) for name in "abcd"]
    draws = [(n + 0.5) / 400 for n in range(400)]
    counts = Counter(choose(*fleet, policy=policy, draw=draw).replica_id for draw in draws)
    assert set(counts) == set("abcd")
    assert max(counts.values()) - min(counts.values()) <= 1


def test_two_models_and_two_adapters_never_share_a_prefix():
    """ray-project/ray#58835: one prefix tree for several deployments."""
    prompt = b"the same system prompt " * 40
    salts = [b"model-a\0", b"model-b\0", b"model-a\0law"]
    hashes = [block_hashes(prompt, salt=salt, block_bytes=64, blocks_max=10) for salt in salts]
    memory = ReplicaMemory(ReplicaRoutingConfig())
    memory.sent(ReplicaId("r"), hashes[0], uncached_tokens=0, ttft_s=0.0, now_s=0.0)
    found = [memory.prefixes.cached_blocks(ReplicaId("r"), known) for known in hashes]
    assert found == [10, 0, 0]


def test_a_hot_prefix_spreads_over_the_fleet():
    """ray-project/ray#65691: what everybody asks for stayed on one replica, however long its queue."""
    config = ReplicaRoutingConfig()
    memory = ReplicaMemory(config)
    hashes = tuple(range(100))
    signals = request(8000, block_hashes=hashes, block_tokens=80)
    pending = dict.fromkeys("abcd", 0)
    sent = Counter()
    for number in range(200):
        fleet = [
            view(
                name,
                pending_prefill_tokens=tokens,
                requests_in_flight=sent[name],
                max_concurrent_requests=1000,
                cached_tokens=80 * memory.prefixes.cached_blocks(ReplicaId(name), hashes[:90]),
            )
            for name, tokens in pending.items()
        ]
        choice = choose_replica(signals, fleet, config, now_s=0.0, draw=(number % 97) / 97)
        chosen = next(found for found in fleet if found.replica_id == choice.replica_id)
        sent[chosen.replica_id] += 1
        uncached = 8000 - chosen.cached_tokens
        pending[chosen.replica_id] += uncached
        memory.sent(chosen.replica_id, hashes, uncached_tokens=uncached, ttft_s=0.0, now_s=0.0)
    assert set(sent) == set("abcd")
    assert max(sent.values()) <= 1.5 * min(sent.values())
