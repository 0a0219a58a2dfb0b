"""Block hashes agree exactly as far as prompts do; the index forgets tails before heads."""

import subprocess
import sys

import pytest

from cluster.entities.pool import ReplicaId
from cluster.policy.routing.replicas.prefix_index import PrefixIndex, block_hashes

A, B = ReplicaId("a"), ReplicaId("b")
PINNED = (17605007130520854774, 13559203142438105713)


def hashes(prompt, salt=b"tenant", block_bytes=4, blocks_max=100):
    return block_hashes(prompt, salt=salt, block_bytes=block_bytes, blocks_max=blocks_max)


def test_only_whole_leading_blocks_are_hashed():
    assert len(hashes(b"abcdefghijk")) == 2
    assert len(hashes(b"abc")) == 0
    assert hashes(b"abcdefghijk", blocks_max=1) == hashes(b"abcdefghijk")[:1]


def test_equal_prefixes_have_equal_hashes_and_nothing_after_a_difference_matches():
    one, other = hashes(b"aaaabbbbccccdddd"), hashes(b"aaaabbbbXcccdddd")
    assert one[:2] == other[:2]
    assert not set(one[2:]) & set(other[2:])


def test_equal_blocks_at_different_places_differ():
    assert len(set(hashes(b"aaaaaaaaaaaa"))) == 3


def test_salts_never_share_blocks_even_where_they_run_into_the_prompt():
    assert not set(hashes(b"aaaabbbb", salt=b"t1")) & set(hashes(b"aaaabbbb", salt=b"t2"))
    assert not set(hashes(b"aaaabbbb", salt=b"")) & set(hashes(b"bbbb", salt=b"aaaa"))


def test_hashes_are_64_bit_and_pinned_so_that_processes_and_versions_agree():
    found = hashes(b"the quick brown fox", block_bytes=8)
    assert found == PINNED
    assert all(0 <= value < 2**64 for value in found)


def test_another_process_with_another_hash_seed_agrees():
    code = (
        "from cluster.policy.routing.replicas.prefix_index import block_hashes as h;"
        "print(h(b'the quick brown fox', salt=b'tenant', block_bytes=8, blocks_max=9))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert result.stdout.strip() == str(PINNED)


@pytest.mark.parametrize("bad", [{"block_bytes": 0}, {"blocks_max": -1}])
def test_impossible_block_sizes_are_errors(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        hashes(b"abcd", **bad)


def test_the_longest_leading_run_counts():
    index = PrefixIndex(10)
    index.record(A, (1, 2, 3))
    assert index.cached_blocks(A, (1, 2, 3, 4)) == 3
    assert index.cached_blocks(A, (1, 9, 3)) == 1
    assert index.cached_blocks(A, (2, 3)) == 2
    assert index.cached_blocks(A, (9, 1, 2)) == 0
    assert index.cached_blocks(A, ()) == 0


def test_replicas_do_not_know_of_each_other():
    index = PrefixIndex(10)
    index.record(A, (1, 2))
    assert index.cached_blocks(B, (1, 2)) == 0
    index.record(B, (1,))
    index.forget(A)
    assert (index.cached_blocks(A, (1,)), index.cached_blocks(B, (1,)), len(index)) == (0, 1, 1)
    index.forget(A)


def test_a_prompt_loses_its_tail_first():
    index = PrefixIndex(4)
    index.record(A, (1, 2, 3))
    index.record(A, (7, 8))
    assert index.cached_blocks(A, (1, 2, 3)) == 2
    assert index.cached_blocks(A, (7, 8)) == 2


def test_what_is_sent_again_stays():
    index = PrefixIndex(4)
    index.record(A, (1, 2))
    index.record(A, (3, 4))
    index.record(A, (1, 2))
    index.record(A, (5, 6))
    assert index.cached_blocks(A, (1, 2)) == 2
    assert index.cached_blocks(A, (3, 4)) == 0


def test_looking_up_is_not_using():
    index = PrefixIndex(2)
    index.record(A, (1,))
    index.record(A, (2,))
    index.cached_blocks(A, (1,))
    index.record(A, (3,))
    assert index.cached_blocks(A, (1,)) == 0


def test_a_prompt_longer_than_the_bound_keeps_its_head():
    index = PrefixIndex(3)
    index.record(A, range(10))
    assert len(index) == 3
    assert index.cached_blocks(A, range(10)) == 3


def test_an_index_without_room_is_an_error():
    with pytest.raises(ValueError, match="blocks_per_replica_max"):
        PrefixIndex(0)


def test_a_replica_is_believed_to_hold_no_more_than_there_is_room_for():
    index = PrefixIndex(10)
    index.record(A, range(10))
    index.record(B, range(10))
    index.bound(A, 3)
    index.record(A, [20])
    assert [block for block in range(30) if index.cached_blocks(A, [block])] == [0, 1, 20]
    assert index.cached_blocks(B, range(10)) == 10
    index.bound(A, 100)
    index.record(A, range(100, 200))
    assert index.cached_blocks(A, range(100, 200)) == 10
    index.forget(A)
    index.record(A, range(10))
    assert index.cached_blocks(A, range(10)) == 10
