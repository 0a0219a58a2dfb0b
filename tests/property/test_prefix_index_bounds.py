"""Invariants of the prefix index and its hashes.

1. No replica has more blocks than the bound, whatever is recorded.
2. What was recorded last is found whole (up to the bound).
3. The found run is never longer than the prompt, and forgetting leaves nothing.
4. Two prompts share exactly as many leading hashes as they share leading whole blocks.
"""

from hypothesis import given
from hypothesis import strategies as st

from cluster.entities.pool import ReplicaId
from cluster.policy.routing.replicas.prefix_index import PrefixIndex, block_hashes

REPLICAS = st.sampled_from([ReplicaId("a"), ReplicaId("b")])
PROMPTS = st.lists(st.integers(0, 9), max_size=12, unique=True).map(tuple)


@given(st.integers(1, 8), st.lists(st.tuples(REPLICAS, PROMPTS), max_size=30))
def test_the_bound_holds_and_the_latest_prompt_is_known(bound, prompts):
    index = PrefixIndex(bound)
    seen = set()
    for replica, hashes in prompts:
        index.record(replica, hashes)
        seen.add(replica)
        assert len(index) <= bound * len(seen)
        assert index.cached_blocks(replica, hashes) == min(len(hashes), bound)
    for replica in seen:
        others = len(index)
        index.forget(replica)
        assert others - bound <= len(index) <= others
        assert index.cached_blocks(replica, tuple(range(10))) == 0
    assert len(index) == 0


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40), st.integers(1, 7))
def test_shared_hashes_are_shared_blocks(common, one, other, block_bytes):
    def hashed(prompt):
        return block_hashes(prompt, salt=b"s", block_bytes=block_bytes, blocks_max=1000)

    first, second = common + one, common + other
    blocks = min(len(first), len(second)) // block_bytes
    shared = 0
    while shared < blocks and first[: (shared + 1) * block_bytes] == second[: (shared + 1) * block_bytes]:
        shared += 1
    same = [a == b for a, b in zip(hashed(first), hashed(second), strict=False)]
    assert same == [True] * shared + [False] * (blocks - shared)
