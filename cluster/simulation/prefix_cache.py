"""The prefix cache of one simulated engine: blocks that running requests leave room for, least recent out."""

from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Which prompt blocks an engine still holds.

    vLLM keeps the blocks of finished requests until their memory is needed. Here the blocks of running
    requests are counted apart from cached ones, even where they are shared, so hits are a little
    underestimated when memory is short.
    """

    __slots__ = ("_blocks", "_tokens")

    def __init__(self, block_tokens: int) -> None:
        """An empty cache.

        Args:
            block_tokens: tokens in one block of the trace (not of the engine).
        """
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._tokens = block_tokens

    def __len__(self) -> int:
        """Blocks held."""
        return len(self._blocks)

    def cached_tokens(self, blocks: Sequence[int], prompt_tokens: int) -> int:
        """Leading tokens of a prompt that are held; at least the last token is always computed."""
        hits = 0
        held = self._blocks
        for block in blocks:
            if block not in held:
                break
            held.move_to_end(block)
            hits += 1
        return max(0, min(hits * self._tokens, prompt_tokens - 1))

    def insert(self, blocks: Sequence[int], *, free_tokens: int) -> None:
        """Keep the blocks of a computed prompt, within the memory that running requests leave free."""
        held = self._blocks
        for block in blocks:
            held[block] = None
            held.move_to_end(block)
        self.trim(free_tokens=free_tokens)

    def trim(self, *, free_tokens: int) -> None:
        """Give up the least recently used blocks that no longer fit."""
        held = self._blocks
        room = max(0, free_tokens) // self._tokens
        while len(held) > room:
            held.popitem(last=False)
