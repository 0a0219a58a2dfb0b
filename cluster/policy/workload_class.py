"""Workload classes: requests of similar prompt length, whose demand is forecast together."""

from bisect import bisect_left
from collections.abc import Sequence


def workload_class(prompt_tokens: int, bands: Sequence[int]) -> str:
    """Name of the class of a prompt: `0-512`, `513-4096`, `4097-`.

    Args:
        prompt_tokens: length of the prompt.
        bands: rising upper bounds (`provisioning.prompt_bands`).
    """
    place = bisect_left(bands, prompt_tokens)
    low = bands[place - 1] + 1 if place else 0
    return f"{low}-{bands[place]}" if place < len(bands) else f"{low}-"


def workload_classes(bands: Sequence[int]) -> tuple[str, ...]:
    """Every class, shortest prompts first."""
    last = bands[-1] + 1 if bands else 0
    return (*(workload_class(band, bands) for band in bands), f"{last}-")


def class_upper_tokens(name: str) -> int | None:
    """Longest prompt of a class; None for the class without an upper bound.

    Raises:
        ValueError: no class has such a name.
    """
    _, high = _bounds(name)
    return int(high) if high else None


def class_lower_tokens(name: str) -> int:
    """Shortest prompt of a class.

    Raises:
        ValueError: no class has such a name.
    """
    return int(_bounds(name)[0])


def _bounds(name: str) -> tuple[str, str]:
    low, dash, high = name.partition("-")
    if not (dash and low.isdigit() and (high.isdigit() or not high)):
        raise ValueError(f"{name!r} is not the name of a workload class")
    return low, high
