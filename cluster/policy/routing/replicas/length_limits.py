"""Which pools take a prompt of a given length, where a fleet plan parts pools by length."""

from collections.abc import Mapping
from typing import TypeVar

PoolT = TypeVar("PoolT", bound=str)


def pools_for_length(prompt_tokens: int, limits: Mapping[PoolT, tuple[int, int | None]]) -> frozenset[PoolT]:
    """The pools that are meant for a prompt; all of them if none is.

    A preference, not a rule: a caller who finds no usable replica in these pools tries the others.

    Args:
        prompt_tokens: length of the prompt.
        limits: for every pool the shortest and the longest prompt it is meant for; None means any.
    """
    fitting = frozenset(
        pool
        for pool, (low, high) in limits.items()
        if prompt_tokens >= low and (high is None or prompt_tokens <= high)
    )
    return fitting or frozenset(limits)
