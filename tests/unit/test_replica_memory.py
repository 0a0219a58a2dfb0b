"""What a router remembers of replicas is bounded, believed for a while, and forgotten with them."""

import pytest

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.pool import ReplicaId
from cluster.policy.routing.replicas.memory import ReplicaMemory

A, B = ReplicaId("a"), ReplicaId("b")


def memory(policy="min_work", **settings):
    return ReplicaMemory(ReplicaRoutingConfig(policy=policy, **settings))


def send(found, replica, hashes=(), *, uncached=0, ttft_s=0.0, now_s=0.0):
    found.sent(replica, tuple(hashes), uncached_tokens=uncached, ttft_s=ttft_s, now_s=now_s)


def test_what_was_only_sent_is_believed_until_its_first_token_is_overdue():
    found = memory(prefix_speculative_s=2.0)
    send(found, A, (1, 2, 3), ttft_s=1.5, now_s=10.0)
    assert found.prefixes.cached_blocks(A, (1, 2, 3), now_s=13.5) == 3
    assert found.prefixes.cached_blocks(A, (1, 2, 3), now_s=13.6) == 0
    found.answered(A, (1, 2, 3))
    assert found.prefixes.cached_blocks(A, (1, 2, 3), now_s=1e9) == 3


def test_a_prompt_that_is_sent_again_does_not_make_known_blocks_doubtful():
    found = memory()
    send(found, A, (1, 2))
    found.answered(A, (1, 2))
    send(found, A, (1, 2, 3), now_s=5.0)
    assert found.prefixes.cached_blocks(A, (1, 2, 3), now_s=100.0) == 2


def test_round_robin_remembers_turns():
    found = memory("round_robin")
    for replica in (A, B, A):
        send(found, replica)
    assert found.recall([A, B, ReplicaId("new")], 0.0) == {"a": 3.0, "b": 2.0, "new": 0.0}
    found.forget(A)
    assert found.recall([A], 0.0) == {"a": 0.0}


@pytest.mark.parametrize("policy", ["sglang_cache_aware", "ray_prefix_affinity"])
def test_trees_grow_by_what_is_new_to_them(policy):
    found = memory(policy, prefix_blocks_per_replica_max=3)
    send(found, A, (1, 2))
    send(found, A, (1, 2, 3))
    assert found.recall([A, B], 0.0) == {"a": 3.0, "b": 0.0}
    send(found, A, (4, 5))
    assert found.recall([A], 0.0) == {"a": 5.0}
    assert len(found.prefixes) == 3


def test_prebles_window_is_three_minutes_long_and_bounded():
    found = memory("preble")
    send(found, A, uncached=100, now_s=0.0)
    send(found, A, uncached=50, now_s=100.0)
    assert found.recall([A, B], 180.0) == {"a": 150.0, "b": 0.0}
    assert found.recall([A], 180.1) == {"a": 50.0}
    for _ in range(10_000):
        send(found, A, uncached=1, now_s=150.0)
    assert found.recall([A], 150.0) == {"a": 8192.0}


def test_policies_without_memory_recall_nothing():
    found = memory("min_work")
    send(found, A, (1,), uncached=10)
    assert found.recall([A, B], 0.0) == {}
