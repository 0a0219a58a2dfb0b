"""What answers of each model took lately: money, energy and time, learnt from every outcome, judged or not.

The scale on which they are compared runs from the smallest 5th to the largest 95th percentile of the models
at hand, each over its own latest answers. It follows changes of price and load, needs no table of extremes,
and does not shrink when the policy settles on one model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.entities.model_routing import ModelCandidate, ModelOutcome
from cluster.policy.routing.models.state_json import array, entry

Numbers = NDArray[np.float64]

COST, ENERGY, SERVICE, TTFT = range(4)
_MEASURES = 4
_QUANTILES = (0.05, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """One model's latest answers, a ring of rows (money, energy, seconds after the first token, TTFT)."""

    rows: Numbers
    count: int
    mean: Numbers
    low: Numbers
    """5th percentile of money, energy and time to the last token."""
    high: Numbers
    """95th percentile of the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """By model; the one that was silent longest stands first."""

    models: Mapping[str, ModelUsage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an answer of each candidate is expected to take, in units and on the common scale 0..1."""

    cost_usd: Numbers
    energy_j: Numbers
    cost: Numbers
    energy: Numbers
    latency: Numbers


def with_outcome(usage: Usage, outcome: ModelOutcome, *, window: int, models_max: int) -> Usage:
    """The usage after one more answer."""
    known = usage.models.get(outcome.model)
    rows = known.rows.copy() if known is not None else np.zeros((window, _MEASURES))
    count = known.count if known is not None else 0
    after_first_s = max(outcome.latency_s - outcome.ttft_s, 0.0)
    rows[count % window] = (outcome.cost_usd, outcome.energy_j, after_first_s, outcome.ttft_s)
    models = {name: other for name, other in usage.models.items() if name != outcome.model}
    while len(models) >= models_max:
        del models[next(iter(models))]
    models[outcome.model] = _summary(rows, count + 1)
    return Usage(models=models)


def needs(usage: Usage, candidates: Sequence[ModelCandidate]) -> Needs:
    """What each candidate is expected to take: what the caller predicts, or the mean of what was seen."""
    seen = [usage.models.get(candidate.model) for candidate in candidates]
    mean = np.array([np.zeros(_MEASURES) if found is None else found.mean for found in seen])
    told = np.array([(candidate.cost_usd, candidate.energy_j, candidate.ttft_s) for candidate in candidates])
    cost_usd = np.where(told[:, 0] > 0, told[:, 0], mean[:, COST])
    energy_j = np.where(told[:, 1] > 0, told[:, 1], mean[:, ENERGY])
    latency_s = np.where(told[:, 2] > 0, told[:, 2], mean[:, TTFT]) + mean[:, SERVICE]
    expected = np.stack([cost_usd, energy_j, latency_s], axis=1)
    bounds = [(found.low, found.high) for found in seen if found is not None]
    low = np.min([expected.min(axis=0), *(lower for lower, _ in bounds)], axis=0)
    high = np.max([expected.max(axis=0), *(upper for _, upper in bounds)], axis=0)
    span = np.where(high > low, high - low, 1.0)
    scaled = np.clip((expected - low) / span, 0.0, 1.0)
    return Needs(
        cost_usd=cost_usd, energy_j=energy_j, cost=scaled[:, 0], energy=scaled[:, 1], latency=scaled[:, 2]
    )


def usage_fields(usage: Usage) -> dict[str, Any]:
    """For the state on disk."""
    return {
        name: {"rows": found.rows, "count": found.count, "order": index}
        for index, (name, found) in enumerate(usage.models.items())
    }


def usage_from(fields: Mapping[str, Any], *, window: int) -> Usage:
    """Read `usage_fields`.

    Raises:
        ValueError: it is not of this shape.
    """
    if not all(isinstance(found, dict) for found in fields.values()):
        raise ValueError("state: usage should hold an object for each model")
    ordered = sorted(fields.items(), key=lambda item: entry(item[1], "order", int))
    return Usage(
        models={
            name: _summary(array(found, "rows", (window, _MEASURES)), entry(found, "count", int))
            for name, found in ordered
        }
    )


def _summary(rows: Numbers, count: int) -> ModelUsage:
    filled = rows[: min(count, len(rows))]
    shown = np.column_stack([filled[:, COST], filled[:, ENERGY], filled[:, SERVICE] + filled[:, TTFT]])
    low, high = np.quantile(shown, _QUANTILES, axis=0)
    return ModelUsage(rows=rows, count=count, mean=filled.mean(axis=0), low=low, high=high)
