"""Hits against errors among hits: one threshold for everything beside the category-aware policy.

Both are counted on the second half of a stream, the cache being warm. The curve of one threshold is that of
all thresholds; that of the category-aware policy, as it is deployed, is that of the errors it is told to
allow: its thresholds come from what it judged itself. What is compared is hits at equal errors among hits,
read off both curves.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from load_tests.caching.baselines import Judge, Static
from load_tests.caching.known_cosines import KnownCosines, KnownIndex
from load_tests.caching.stream_replay import TierPolicy, fixed_config, replay, tier_config
from load_tests.caching.streams import Prompt

THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.87, 0.9, 0.92, 0.94, 0.96, 0.98)
ALLOWED = (0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.15, 0.18, 0.22, 0.26, 0.3, 0.4, 0.5)
"""Errors that the category-aware policy is told to allow; it makes fewer, because it goes by upper bounds:
some .12 where it may make .5."""


def curve_rows(
    prompts: Sequence[Prompt],
    known: KnownCosines,
    order: Sequence[int],
    *,
    judge: Judge,
    explore: float,
    seed: int,
) -> list[dict[str, Any]]:
    """The points of all curves: `global` without guards and with ours, and `category`."""
    vectors = known.vectors

    def new_index() -> KnownIndex:
        return KnownIndex(known)

    warm = len(order) // 2
    categories = sorted({prompt.category for prompt in prompts})
    rows: list[dict[str, Any]] = []
    for threshold in THRESHOLDS:
        plain = replay(Static(vectors, threshold, new_index()), prompts, order, skip=warm)
        rows.append({"policy": "global", "threshold": threshold, **plain.metrics()})
        config = fixed_config(prompts, dict.fromkeys(categories, threshold))
        guarded = replay(
            TierPolicy(prompts, vectors, config, judge=None, seed=seed, new_index=new_index),
            prompts,
            order,
            skip=warm,
        )
        rows.append({"policy": "global_guarded", "threshold": threshold, **guarded.metrics()})
    for allowed in ALLOWED:
        config = tier_config(prompts, delta=allowed, explore=explore)
        policy = TierPolicy(prompts, vectors, config, judge=judge, seed=seed, new_index=new_index)
        counted = replay(policy, prompts, order, skip=warm)
        rows.append({"policy": "category", "allowed_error": allowed, **counted.metrics()})
    return rows


def ratio_rows(rows: Sequence[dict[str, Any]], errors: Sequence[float]) -> list[dict[str, Any]]:
    """How many times the hits of one threshold the category-aware policy has, at equal errors among hits.

    Where one threshold cannot reach an error at all, `times` is left out.
    """
    ratios: list[dict[str, Any]] = []
    for error in errors:
        hits = {
            policy: hit_ratio_at(error, [row for row in rows if row["policy"] == policy])
            for policy in ("category", "global", "global_guarded")
        }
        for other in ("global", "global_guarded"):
            times = {"times": hits["category"] / hits[other]} if hits[other] else {}
            ratios.append(
                {
                    "policy": f"category_over_{other}_at_{error:g}",
                    "hit_ratio": hits["category"],
                    "hit_ratio_of_other": hits[other],
                    **times,
                }
            )
    return ratios


def hit_ratio_at(error: float, points: Sequence[dict[str, Any]]) -> float:
    """The hit ratio of a curve at an error among hits, between its points; 0 below all of them."""
    frontier: list[tuple[float, float]] = []
    for wrong, hits in sorted((row["wrong_among_hits"], row["hit_ratio"]) for row in points if row["hits"]):
        if not frontier or hits > frontier[-1][1]:
            frontier.append((wrong, hits))
    if not frontier or error < frontier[0][0]:
        return 0.0
    return float(np.interp(error, [wrong for wrong, _ in frontier], [hits for _, hits in frontier]))
