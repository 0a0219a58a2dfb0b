"""What each replica's prefix cache probably holds, guessed from what was sent there.

The engines do not say which text they keep, and asking them would cost a round trip on every request. A
bounded record of the prompts that went to each replica is a good enough guess: a wrong one costs a
recomputed prefix, never a wrong answer. What was only sent is believed for a while; the first token of its
answer confirms it. Engines that tell how much they keep bound the record further.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence

from cluster.entities.pool import ReplicaId

_HASH_BYTES = 8


def block_hashes(prompt: bytes, *, salt: bytes, block_bytes: int, blocks_max: int) -> tuple[int, ...]:
    """Chained 64-bit hashes of the prompt's leading whole blocks; the same in every process.

    Each hash covers everything before it, so two prompts share hash number n only if they share all bytes
    up to the end of block n, and the salt. A last block that is not full is left out, because it would
    match nothing that continues it.

    Args:
        prompt: the prompt as the engine will see it, as bytes.
        salt: keeps apart what must not share a cache (tenant, model, adapter).
        block_bytes: bytes in one block.
        blocks_max: how many leading blocks are hashed.

    Raises:
        ValueError: `block_bytes` is below 1 or `blocks_max` below 0.
    """
    if block_bytes < 1:
        raise ValueError(f"block_bytes must be at least 1, not {block_bytes}")
    if blocks_max < 0:
        raise ValueError(f"blocks_max must not be negative, not {blocks_max}")
    # The salt goes in at a fixed width; otherwise the end of one salt could pass for the start of a prompt.
    running = hashlib.blake2b(hashlib.blake2b(salt).digest(), digest_size=_HASH_BYTES)
    hashes = []
    view = memoryview(prompt)
    for block in range(min(len(prompt) // block_bytes, blocks_max)):
        running.update(view[block * block_bytes : (block + 1) * block_bytes])
        hashes.append(int.from_bytes(running.digest(), "big"))
    return tuple(hashes)


class PrefixIndex:
    """Blocks sent to each replica, the least recently used dropped first.

    Bounded for one replica by `blocks_per_replica_max`, and in all by that times the replicas not forgotten;
    whoever takes a replica out of the routing table also calls `forget`.
    """

    def __init__(self, blocks_per_replica_max: int) -> None:
        if blocks_per_replica_max < 1:
            raise ValueError(f"blocks_per_replica_max must be at least 1, not {blocks_per_replica_max}")
        self._blocks_max = blocks_per_replica_max
        self._blocks: dict[ReplicaId, OrderedDict[int, float]] = {}
        self._taken_in: dict[ReplicaId, int] = {}
        self._bounds: dict[ReplicaId, int] = {}

    def __len__(self) -> int:
        """Blocks remembered for all replicas together."""
        return sum(len(blocks) for blocks in self._blocks.values())

    def taken_in(self, replica: ReplicaId) -> int:
        """Blocks that were new to a replica when they were sent there: the size of a tree that drops none."""
        return self._taken_in.get(replica, 0)

    def cached_blocks(self, replica: ReplicaId, hashes: Sequence[int], *, now_s: float = 0.0) -> int:
        """How many leading blocks of a prompt the replica probably holds. Does not count as a use.

        Args:
            replica: whose cache.
            hashes: of the prompt's blocks.
            now_s: blocks that were believed in until before this are not counted.
        """
        known = self._blocks.get(replica)
        if not known:
            return 0
        for count, block in enumerate(hashes):
            if known.get(block, -math.inf) < now_s:
                return count
        return len(hashes)

    def bound(self, replica: ReplicaId, blocks: int) -> None:
        """Believe in no more than so many blocks of a replica from the next `record` on."""
        self._bounds[replica] = max(1, min(blocks, self._blocks_max))

    def record(self, replica: ReplicaId, hashes: Sequence[int], *, until_s: float = math.inf) -> None:
        """Note that the replica holds a prompt; its blocks become the most recently used.

        Args:
            replica: where.
            hashes: of the prompt's blocks.
            until_s: how long to believe so, of a prompt that was only sent there; blocks that are known to be
                there stay known.
        """
        if not hashes:
            return
        known = self._blocks.setdefault(replica, OrderedDict())
        before = len(known)
        # Last block first: a prompt then loses its tail before its head, as in the engine's own cache, and
        # what is left is still a prefix.
        blocks_max = self._bounds.get(replica, self._blocks_max)
        for block in reversed(hashes[:blocks_max]):
            known[block] = max(until_s, known.get(block, until_s))
            known.move_to_end(block)
        self._taken_in[replica] = self._taken_in.get(replica, 0) + len(known) - before
        while len(known) > blocks_max:
            known.popitem(last=False)

    def forget(self, replica: ReplicaId) -> None:
        """Drop everything about a replica that left or lost its cache; unknown replicas are fine."""
        self._blocks.pop(replica, None)
        self._taken_in.pop(replica, None)
        self._bounds.pop(replica, None)
