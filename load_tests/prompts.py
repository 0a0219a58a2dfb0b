"""Prompts of a wanted length that no cache has seen: seeded words with the request's number in front."""

import itertools
import random
from collections.abc import Sequence

_WORDS = ("harbour", "tide", "stone", "river", "grain", "lantern", "bridge", "winter", "copper", "meadow")


def unique_prompt(rng: random.Random, number: int, *, tokens: int, bytes_per_token: float = 4.0) -> str:
    """Text of about `tokens` tokens.

    Args:
        rng: where the words come from.
        number: makes the text, its first block included, unlike that of every other number.
        tokens: wanted length; at least what the number needs.
        bytes_per_token: how many bytes the served model's tokenizer puts into one token on average.
    """
    wanted_bytes = max(1, int(tokens * bytes_per_token))
    text = f"{rng.getrandbits(32):08x} {number}"
    words = [text]
    size = len(text)
    while size < wanted_bytes:
        word = rng.choice(_WORDS)
        words.append(word)
        size += len(word) + 1
    return " ".join(words)[: max(wanted_bytes, len(text))]


def prompt_of_blocks(
    blocks: Sequence[int], block_tokens: int, *, tokens: int, bytes_per_token: float = 4.0
) -> str:
    """Text of about `tokens` tokens, in which equal leading blocks give equal leading text.

    Args:
        blocks: ids of the prompt's blocks, from its beginning on.
        block_tokens: tokens in one of them.
        tokens: wanted length.
        bytes_per_token: how many bytes the served model's tokenizer puts into one token on average.
    """
    block_bytes = max(1, int(block_tokens * bytes_per_token))
    wanted_bytes = max(1, int(tokens * bytes_per_token))
    parts = []
    for block in itertools.islice(blocks, -(-wanted_bytes // block_bytes)):
        words = f"{block} " + " ".join(random.Random(block).choices(_WORDS, k=block_bytes // 4 + 1))
        parts.append(words[: block_bytes - 1] + " ")
    return "".join(parts)[:wanted_bytes]
