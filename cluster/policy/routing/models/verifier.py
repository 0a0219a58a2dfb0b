"""Grades of answers from what the engine says of its own tokens, or a judge of its verdict.

All grades lie in 0..1 and are graded on purpose: a cascade that only hears yes or no cannot weigh an answer
against the price of a better one.
"""

import math
from collections.abc import Sequence

from cluster.config.model_routing import CascadeConfig


def grade_by_margins(margins: Sequence[float], config: CascadeConfig) -> float:
    """How sure the model was, from the gap in log-probability between its two likeliest tokens, token by
    token.

    A gap of `margin_scale` or more counts as certain. The answer is graded by the mean over its least certain
    tokens: most tokens of a wrong answer are certain as well, and would hide the few that were guessed.

    Raises:
        ValueError: there are no margins, or a negative one.
    """
    if not margins:
        raise ValueError("an answer without tokens cannot be graded")
    if min(margins) < 0:
        raise ValueError("the likeliest token cannot be less likely than the second")
    weakest = sorted(margins)[: max(1, round(config.weakest_share * len(margins)))]
    return sum(min(margin / config.margin_scale, 1.0) for margin in weakest) / len(weakest)


def grade_by_verdict(yes_logprob: float, no_logprob: float) -> float:
    """How sure a judge, or the model itself, is that the answer is right, from its log-probabilities."""
    return 1 / (1 + math.exp(min(no_logprob - yes_logprob, 700.0)))


def quality_after(expected: float, grade: float, config: CascadeConfig) -> float:
    """What is expected of an answer once it is graded: between what was expected and the grade.

    Both are normal estimates of the same quality; the grade has as much weight as it takes to narrow
    `sigma_before` to `sigma_after`.
    """
    weight = 1 - (config.sigma_after / config.sigma_before) ** 2
    return (1 - weight) * expected + weight * grade
