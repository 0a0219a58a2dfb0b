"""The KV cache of one simulated engine, in whole blocks, exact to the token."""


class KvBlocks:
    """Blocks in use, and how many more the decoding sequences will take in the next steps.

    Every decoding sequence grows by a token a step and takes a block whenever its last one is full. Sequences
    are counted by (context - step) mod block size, a number that stays the same while they decode, so the
    blocks of any number of steps are a sum over at most one block's worth of counts.
    """

    __slots__ = ("_residues", "block_tokens", "blocks_max", "decoding", "step", "used")

    def __init__(self, *, tokens_max: int, block_tokens: int) -> None:
        """An empty cache of as many whole blocks as fit into `tokens_max`."""
        self.block_tokens = block_tokens
        self.blocks_max = tokens_max // block_tokens
        self.used = 0
        self.decoding = 0
        """Sequences that grow by a token a step."""
        self.step = 0
        """Steps taken so far."""
        self._residues = [0] * block_tokens

    @property
    def free(self) -> int:
        """Blocks not in use."""
        return self.blocks_max - self.used

    def of(self, tokens: int) -> int:
        """Blocks that so many tokens of one sequence take."""
        return -(-tokens // self.block_tokens)

    def join(self, context_tokens: int) -> None:
        """A sequence whose blocks are counted already decodes from the next step on."""
        self.decoding += 1
        self._residues[(context_tokens - self.step) % self.block_tokens] += 1

    def leave(self, context_tokens: int) -> None:
        """A decoding sequence with that context is gone, and its blocks with it."""
        self.decoding -= 1
        self.used -= self.of(context_tokens)
        self._residues[(context_tokens - self.step) % self.block_tokens] -= 1

    def growth(self, steps: int) -> int:
        """Blocks that the decoding sequences take in the next steps."""
        block = self.block_tokens
        rounds, rest = divmod(steps, block)
        total = rounds * self.decoding
        if rest and self.decoding:
            residues, first = self._residues, self.step
            # A block is taken in the step before which the context fills its blocks exactly.
            for ahead in range(first, first + rest):
                total += residues[-ahead % block]
        return total

    def advance(self, steps: int) -> None:
        """Take steps."""
        if self.decoding:
            self.used += self.growth(steps)
        self.step += steps

    def steps_that_fit(self, steps: int) -> int:
        """How many of the next steps can be taken before blocks run out; at least 1."""
        free, decoding, block = self.free, self.decoding, self.block_tokens
        if (steps // block + 1) * decoding <= free:
            return steps
        if free >= decoding:
            return min(steps, free // decoding * block)
        most = 1
        while most < min(steps, block) and self.growth(most + 1) <= free:
            most += 1
        return most
