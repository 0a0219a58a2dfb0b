"""Hits against errors among hits: one threshold for everything beside one for each category.

Thresholds are fitted on the first half of a stream by how many right answers a wrong one is worth, and
counted on the second half, the cache being warm. What is compared is hits at equal errors among hits, read
off both curves.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from load_tests.cache_baselines import Static, Vectors
from load_tests.cache_replay import Outcome, fixed_config, replay, tier_policy
from load_tests.cache_streams import Prompt

THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.87, 0.9, 0.92, 0.94, 0.96, 0.98)
PRICES = (0.5, 1, 2, 3, 5, 8, 12, 20, 35, 60)
"""Right answers that one wrong answer is worth."""

Halves = tuple[Outcome, Outcome]


def curve_rows(prompts: Sequence[Prompt], vectors: Vectors, order: Sequence[int]) -> list[dict[str, Any]]:
    """The points of all curves, counted on the second half."""
    categories = sorted({prompt.category for prompt in prompts})
    rows: list[dict[str, Any]] = []
    guarded: dict[float, Halves] = {}
    for threshold in THRESHOLDS:
        plain = _halves(Static(vectors, threshold), prompts, order)
        rows.append({"policy": "global", "threshold": threshold, **plain[1].metrics()})
        guarded[threshold] = _tier_halves(prompts, vectors, order, dict.fromkeys(categories, threshold))
        rows.append({"policy": "global_guarded", "threshold": threshold, **guarded[threshold][1].metrics()})
    done: set[tuple[float, ...]] = set()
    for price in PRICES:
        chosen = {category: _best(category, guarded, price) for category in categories}
        if tuple(chosen.values()) not in done:
            done.add(tuple(chosen.values()))
            counted = _tier_halves(prompts, vectors, order, chosen)[1]
            rows.append({"policy": "category", "price": price, **counted.metrics()})
    return rows


def ratio_rows(rows: Sequence[dict[str, Any]], errors: Sequence[float]) -> list[dict[str, Any]]:
    """How many times the hits of one threshold category-aware thresholds have, at equal errors among hits."""
    ratios: list[dict[str, Any]] = []
    for error in errors:
        hits = {
            policy: hit_ratio_at(error, [row for row in rows if row["policy"] == policy])
            for policy in ("category", "global", "global_guarded")
        }
        ratios += [
            {
                "policy": f"category_over_{other}_at_{error:g}",
                "hit_ratio": hits["category"],
                "hit_ratio_of_other": hits[other],
                "times": hits["category"] / hits[other] if hits[other] else float("inf"),
            }
            for other in ("global", "global_guarded")
        ]
    return ratios


def hit_ratio_at(error: float, points: Sequence[dict[str, Any]]) -> float:
    """The hit ratio of a curve at an error among hits, between its points; 0 below all of them."""
    frontier: list[tuple[float, float]] = []
    for wrong, hits in sorted((point["wrong_among_hits"], point["hit_ratio"]) for point in points):
        if not frontier or hits > frontier[-1][1]:
            frontier.append((wrong, hits))
    if not frontier or error < frontier[0][0]:
        return 0.0
    return float(np.interp(error, [wrong for wrong, _ in frontier], [hits for _, hits in frontier]))


def _best(category: str, outcomes: dict[float, Halves], price: float) -> float:
    def worth(threshold: float) -> float:
        part = outcomes[threshold][0].parts.get(category, Outcome())
        return part.hits - part.wrong - price * part.wrong

    return max(THRESHOLDS, key=lambda threshold: (worth(threshold), threshold))


def _tier_halves(
    prompts: Sequence[Prompt], vectors: Vectors, order: Sequence[int], thresholds: dict[str, float]
) -> Halves:
    policy = tier_policy(prompts, vectors, fixed_config(prompts, thresholds), judge=None, seed=0)
    return _halves(policy, prompts, order)


def _halves(policy: Any, prompts: Sequence[Prompt], order: Sequence[int]) -> Halves:
    middle = len(order) // 2
    return replay(policy, prompts, order[:middle]), replay(policy, prompts, order[middle:])
