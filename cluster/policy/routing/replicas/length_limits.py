"""Which pools take a prompt of a given length, where a fleet plan parts pools by length."""

from collections.abc import Mapping
from typing import TypeVar

PoolT = TypeVar("PoolT", bound=str)


def pools_for_length(prompt_tokens: int, limits: Mapping[PoolT, int | None]) -> frozenset[PoolT]:
    """The pools with the smallest limit that the prompt does not exceed; all of them if it exceeds every one.

    A preference, not a rule: a caller who finds no usable replica in these pools tries the others.

    Args:
        prompt_tokens: length of the prompt.
        limits: for every pool the longest prompt it is meant for; None means any.
    """
    fitting = {pool: limit for pool, limit in limits.items() if limit is None or prompt_tokens <= limit}
    bounded = [limit for limit in fitting.values() if limit is not None]
    if not fitting:
        return frozenset(limits)
    if not bounded:
        return frozenset(fitting)
    least = min(bounded)
    return frozenset(pool for pool, limit in fitting.items() if limit == least)
