"""Which adapter serves a request that leaves it open.

`oblivious`: the highest optimistic utility, as if all adapters were resident. `aware`: less the price of a
page-in (POLAR's fast timescale, arXiv 2604.16583). `amortised`: less a multiple of the price, because what is
loaded stays for a while, and what it displaces does not. `top_k`: a resident one among the k best, else the
best (EdgeLoRA, arXiv 2507.01438).
"""

from dataclasses import dataclass

import numpy as np

from cluster.config.paging import PagingConfig
from cluster.policy.paging.interface import Mask, Numbers
from cluster.policy.paging.statistics import Scored


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDecision:
    """An adapter by its row, and why."""

    row: int
    score: float
    """Expected utility, bonus included, less what was taken off for the page-in."""
    bonus: float
    """Part of the score that is optimism."""
    price: float
    """Of the page-in that the choice brings about; 0: none."""
    explored: bool
    """Chosen by chance or to learn something, not for its score."""
    propensity: float
    """Chance that this request had to get this adapter."""


def route(
    scored: Scored,
    prices: Numbers,
    config: PagingConfig,
    *,
    draw: float,
    allowed: Mask | None = None,
    forced: int | None = None,
) -> RouteDecision:
    """Choose an adapter.

    Args:
        scored: utilities of all adapters for the request.
        prices: utility that each adapter's page-in would cost now; 0 for residents.
        config: names the rule.
        draw: a number in [0, 1), the only chance that the choice may use.
        allowed: adapters that may be chosen; None: all.
        forced: the adapter that the controller wants something learnt of.

    Raises:
        ValueError: no adapter is allowed.
    """
    bonus = config.alpha * scored.width
    if config.router == "amortised":
        scores = scored.mean + bonus - config.rho * prices
    elif config.router == "aware":
        scores = scored.mean + bonus - prices
    else:
        scores = scored.mean + bonus
    if allowed is not None:
        if not allowed.any():
            raise ValueError("no adapter is allowed")
        scores = np.where(allowed, scores, -np.inf)
        forced = forced if forced is not None and allowed[forced] else None
    best = (
        _resident_of_the_best(scores, prices, config.top_k) if config.router == "top_k" else scores.argmax()
    )
    row, explored, propensity = int(best), False, 1.0
    if forced is not None:
        row, explored = forced, True
    elif config.explore_share:
        choices = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
        each = config.explore_share / len(choices)
        if draw < config.explore_share:
            row = int(choices[min(int(draw / each), len(choices) - 1)])
        explored = row != best
        propensity = each if explored else 1.0 - config.explore_share + each
    return RouteDecision(
        row=row,
        score=float(scores[row]),
        bonus=float(bonus[row]),
        price=float(prices[row]),
        explored=explored,
        propensity=propensity,
    )


def _resident_of_the_best(scores: Numbers, prices: Numbers, k: int) -> int:
    """The best resident among the k best; without one, the best."""
    best = np.argsort(-scores, kind="stable")[:k]
    free = best[(prices[best] <= 0) & np.isfinite(scores[best])]
    return int(free[0]) if len(free) else int(best[0])
