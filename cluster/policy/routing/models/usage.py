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
_JUMP_ANSWERS = 4
_JUMP_DEVIATIONS = 3.0
_JUMP_LOG_MIN = 0.7
"""So many answers in a row whose logarithms lie so many standard deviations off those before on the mean, and
at least so far, each of them half as far: a price has changed, or the engine. The older answers are forgotten
at once instead of being outlived."""
_LOW, _HIGH = slice(_MEASURES, _MEASURES + 3), slice(_MEASURES + 3, _MEASURES + 6)
_UNSEEN = np.concatenate([np.zeros(_MEASURES), np.full(3, np.inf), np.full(3, -np.inf)])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """One model's latest answers, a ring of rows (money, energy, seconds after the first token, TTFT)."""

    rows: Numbers
    count: int
    lasting: int
    """Of those answers, how many have come since money or energy last jumped; older ones are out of date."""
    summary: Numbers
    """Means of the row's measures, then the 5th percentiles of money, energy and time to the last token, then
    their 95th."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """By model; the one that was silent longest stands first."""

    models: Mapping[str, ModelUsage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an answer of each candidate is expected to take, in units and on the common scale 0..1."""

    cost_usd: Numbers
    energy_j: Numbers
    usual_usd: Numbers
    """Of any request: the mean of what was seen, or what the caller predicts if that is more."""
    usual_j: Numbers
    unheard_asks: Numbers
    """How often a model was asked of which nothing has been heard yet; 0 once something was."""
    cost: Numbers
    energy: Numbers
    latency: Numbers


def with_outcome(usage: Usage, outcome: ModelOutcome, *, window: int, models_max: int) -> Usage:
    """The usage after one more answer."""
    known = usage.models.get(outcome.model)
    rows = known.rows.copy() if known is not None else np.zeros((window, _MEASURES))
    count = known.count if known is not None else 0
    after_first_s = max(outcome.latency_s - outcome.ttft_s, 0.0)
    # an answer that no meter caught is not free: it counts as the model's others
    energy_j = outcome.energy_j or (float(known.summary[ENERGY]) if known is not None else 0.0)
    rows[count % window] = (outcome.cost_usd, energy_j, after_first_s, outcome.ttft_s)
    lasting = _lasting(rows, count + 1, known.lasting + 1 if known is not None else 1)
    models = {name: other for name, other in usage.models.items() if name != outcome.model}
    while len(models) >= models_max:
        del models[next(iter(models))]
    models[outcome.model] = _summary(rows, count + 1, lasting)
    return Usage(models=models)


def needs(usage: Usage, candidates: Sequence[ModelCandidate], factors: Numbers | None = None) -> Needs:
    """What each candidate is expected to take: what the caller predicts, or the mean of what was seen.

    Args:
        usage: what was seen.
        candidates: with what the caller predicts.
        factors: on money and energy for this request, one row per candidate.
    """
    found = [usage.models.get(candidate.model) for candidate in candidates]
    seen = np.array([_UNSEEN if one is None else one.summary for one in found])
    told = np.array([(candidate.cost_usd, candidate.energy_j, candidate.ttft_s) for candidate in candidates])
    expected = np.where(told > 0, told, seen[:, (COST, ENERGY, TTFT)])
    usual = np.maximum(told, seen[:, (COST, ENERGY, TTFT)])
    expected[:, 2] += seen[:, SERVICE]
    if factors is not None:
        expected[:, :2] *= factors
    # an unseen model has bounds that bound nothing
    low = np.minimum(expected, seen[:, _LOW]).min(axis=0)
    span = np.maximum(expected, seen[:, _HIGH]).max(axis=0) - low
    span[span <= 0] = 1.0
    scaled = (expected - low) / span
    return Needs(
        cost_usd=expected[:, 0],
        energy_j=expected[:, 1],
        usual_usd=usual[:, 0],
        usual_j=usual[:, 1],
        unheard_asks=np.array(
            [0 if one else candidate.asked for one, candidate in zip(found, candidates, strict=True)]
        ),
        cost=scaled[:, 0],
        energy=scaled[:, 1],
        latency=scaled[:, 2],
    )


def usage_fields(usage: Usage) -> dict[str, Any]:
    """For the state on disk."""
    return {
        name: {"rows": found.rows, "count": found.count, "lasting": found.lasting, "order": index}
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
            name: _summary(
                array(found, "rows", (window, _MEASURES)),
                entry(found, "count", int),
                entry(found, "lasting", int),
            )
            for name, found in ordered
        }
    )


def _latest(rows: Numbers, count: int, wanted: int) -> Numbers:
    """The latest rows of a ring, oldest first."""
    return np.asarray(rows[np.arange(count - min(wanted, count, len(rows)), count) % len(rows)])


def _lasting(rows: Numbers, count: int, lasting: int) -> int:
    """How many of the latest answers belong together: only the last few if those are of another kind."""
    known = _latest(rows, count, lasting)[:, (COST, ENERGY)]
    before, after = known[:-_JUMP_ANSWERS], known[-_JUMP_ANSWERS:]
    if len(before) < _JUMP_ANSWERS:
        return lasting
    with np.errstate(divide="ignore"):
        before, after = np.log(before), np.log(after)
    for measure in range(2):
        usual = before[:, measure]
        if np.isfinite(usual).all() and np.isfinite(after[:, measure]).all():
            moved = after[:, measure] - usual.mean()
            far = max(_JUMP_DEVIATIONS * float(usual.std()), _JUMP_LOG_MIN)
            if abs(float(moved.mean())) > far and (moved > far / 2).all() != (moved < -far / 2).all():
                return _JUMP_ANSWERS
    return lasting


def _summary(rows: Numbers, count: int, lasting: int) -> ModelUsage:
    filled = _latest(rows, count, lasting)
    shown = np.column_stack([filled[:, COST], filled[:, ENERGY], filled[:, SERVICE] + filled[:, TTFT]])
    ranked = np.sort(shown, axis=0)
    low, high = (ranked[round(share * (len(ranked) - 1))] for share in _QUANTILES)
    return ModelUsage(
        rows=rows,
        count=count,
        lasting=min(lasting, len(rows)),
        summary=np.concatenate([filled.mean(axis=0), low, high]),
    )
