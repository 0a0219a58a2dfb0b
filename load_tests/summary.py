"""Percentiles and counts of many outcomes, in one shape for every load test."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from load_tests.client import Outcome

Json = dict[str, Any]


def percentile(values: Sequence[float], fraction: float) -> float:
    """A percentile with linear interpolation between neighbours (numpy's default).

    Raises:
        ValueError: there are no values, or the fraction is not in 0..1.
    """
    if not values or not 0 <= fraction <= 1:
        raise ValueError("percentile needs values and a fraction in 0..1")
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: Iterable[float | None]) -> Json | None:
    """Mean, p50, p90 and p99 of the values there are; None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "mean": round(sum(known) / len(known), 6),
        **{f"p{round(100 * share)}": round(percentile(known, share), 6) for share in (0.5, 0.9, 0.99)},
    }


def summarise(outcomes: Sequence[Outcome], *, elapsed_s: float) -> Json:
    """Rates over the elapsed time, latencies of the answers that came whole, failures by kind."""
    whole = [outcome for outcome in outcomes if outcome.ok]
    tokens = sum(outcome.timeline.output_tokens for outcome in whole)
    return {
        "requests": len(outcomes),
        "completed": len(whole),
        "elapsed_s": round(elapsed_s, 4),
        "output_tokens": tokens,
        "prompt_tokens": sum(outcome.prompt_tokens for outcome in whole),
        "tokens_per_s": round(tokens / elapsed_s, 1) if elapsed_s > 0 else None,
        "requests_per_s": round(len(whole) / elapsed_s, 2) if elapsed_s > 0 else None,
        "ttft_s": spread(outcome.timeline.ttft_s for outcome in whole),
        "tpot_s": spread(outcome.timeline.tpot_s for outcome in whole if outcome.timeline.output_tokens > 1),
        "itl_s": spread(gap for outcome in whole for gap in outcome.itl_s),
        "e2e_s": spread(outcome.timeline.e2e_s for outcome in whole),
        "failures": dict(Counter(outcome.kind for outcome in outcomes if not outcome.ok)),
    }


def as_row(summary: Json) -> Json:
    """A summary as one flat row: `ttft_s: {p50: …}` becomes `ttft_p50_s`, failures a number."""
    row: Json = {}
    for name, value in summary.items():
        if name == "failures":
            row |= {"failures": sum(value.values()), "failure_kinds": value}
        elif isinstance(value, dict):
            row |= {f"{name.removesuffix('_s')}_{part}_s": number for part, number in value.items()}
        elif value is not None:
            row[name] = value
    return row


def goodput(outcomes: Sequence[Outcome], *, elapsed_s: float, ttft_max_s: float, tpot_max_s: float) -> Json:
    """Requests per second that met both bounds; an answer that failed met none."""
    good = sum(1 for outcome in outcomes if _meets(outcome, ttft_max_s, tpot_max_s))
    return {
        "slo_ttft_s": ttft_max_s,
        "slo_tpot_s": tpot_max_s,
        "met": good,
        "attainment": round(good / len(outcomes), 4) if outcomes else None,
        "goodput_per_s": round(good / elapsed_s, 3) if elapsed_s > 0 else None,
    }


def _meets(outcome: Outcome, ttft_max_s: float, tpot_max_s: float) -> bool:
    ttft_s, tpot_s = outcome.timeline.ttft_s, outcome.timeline.tpot_s
    if not outcome.ok or ttft_s is None or tpot_s is None:
        return False
    return ttft_s <= ttft_max_s and tpot_s <= tpot_max_s
