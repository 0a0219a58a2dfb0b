"""Prompts of a wanted length that no cache has seen: seeded words with the request's number in front."""

import random

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
