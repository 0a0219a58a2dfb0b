"""What a replay says in numbers: latencies with intervals, rates and goodput, for all and for each tenant."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from load_tests.client import Outcome
from load_tests.intervals import percentile_intervals

SHARES = (0.5, 0.9, 0.95, 0.99)
ALL = "all"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What an answer must keep to be good; every bound that is given."""

    ttft_s: float
    tpot_s: float
    itl_s: float | None = None
    """For the longest gap of an answer."""

    def met(self, outcome: Outcome) -> bool:
        """Whether an answer kept them all; one that failed kept none."""
        ttft_s, tpot_s = outcome.timeline.ttft_s, outcome.timeline.tpot_s
        if not outcome.ok or ttft_s is None or tpot_s is None:
            return False
        smooth = self.itl_s is None or max(outcome.itl_s, default=0.0) <= self.itl_s
        return ttft_s <= self.ttft_s and tpot_s <= self.tpot_s and smooth


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One request of a replay."""

    number: int
    tenant: str
    at_s: float
    """When it was due, after the beginning."""
    counts: bool
    """Whether it came after the warm-up."""
    outcome: Outcome

    def line(self, slo: Slo) -> Json:
        """Its line of the results."""
        timeline, headers = self.outcome.timeline, self.outcome.headers
        return {
            "number": self.number,
            "tenant": self.tenant,
            "at_s": round(self.at_s, 6),
            "counts": self.counts,
            "kind": self.outcome.kind,
            "decision_id": headers.get("x-tidemill-decision-id"),
            "path": headers.get("x-tidemill-path"),
            "pool": headers.get("x-tidemill-pool"),
            "prompt_tokens": self.outcome.prompt_tokens,
            "output_tokens": timeline.output_tokens,
            "ttft_s": timeline.ttft_s,
            "tpot_s": timeline.tpot_s,
            "e2e_s": timeline.e2e_s,
            "itl_s_max": max(self.outcome.itl_s, default=None),
            "good": slo.met(self.outcome),
        }


def rows(done: Sequence[Done], slo: Slo, *, case: str, seed: int, elapsed_s: float) -> list[Json]:
    """A row for all requests, then one for each tenant if there are several.

    Args:
        done: what came of the requests.
        slo: what is good.
        case: the trace.
        seed: of prompts and intervals.
        elapsed_s: in which the requests that count arrived.
    """
    counted = [one for one in done if one.counts]
    tenants = sorted({one.tenant for one in counted})
    parts = {ALL: counted}
    if len(tenants) > 1:
        parts |= {name: [one for one in counted if one.tenant == name] for name in tenants}
    return [
        {
            "case": case,
            "policy": "open_loop",
            "tenant": name,
            "seed": seed,
            **_figures([one.outcome for one in part], slo, seed=seed, elapsed_s=elapsed_s),
        }
        for name, part in parts.items()
    ]


def _figures(outcomes: Sequence[Outcome], slo: Slo, *, seed: int, elapsed_s: float) -> Json:
    whole = [outcome for outcome in outcomes if outcome.ok]
    good = sum(slo.met(outcome) for outcome in outcomes)
    tokens = sum(outcome.timeline.output_tokens for outcome in whole)
    row: Json = {
        "requests": len(outcomes),
        "failures": len(outcomes) - len(whole),
        "failure_kinds": dict(Counter(outcome.kind for outcome in outcomes if not outcome.ok)),
        "tokens_per_s": round(tokens / elapsed_s, 3),
        "requests_per_s": round(len(whole) / elapsed_s, 4),
        "goodput_per_s": round(good / elapsed_s, 4),
        "attainment": round(good / len(outcomes), 5) if outcomes else None,
    }
    several = [outcome for outcome in whole if outcome.timeline.output_tokens > 1]
    values: dict[str, list[Sequence[float]]] = {
        "ttft": [[outcome.timeline.ttft_s or 0.0] for outcome in whole],
        "tpot": [[outcome.timeline.tpot_s or 0.0] for outcome in several],
        "itl": [outcome.itl_s for outcome in several],
        "e2e": [[outcome.timeline.e2e_s or 0.0] for outcome in whole],
    }
    for name, groups in values.items():
        for share, interval in percentile_intervals(groups, SHARES, seed=seed).items():
            label = f"{name}_p{round(100 * share)}_s"
            row[label] = round(interval.value, 6)
            row[f"{label}_low"], row[f"{label}_high"] = round(interval.low, 6), round(interval.high, 6)
    return row
