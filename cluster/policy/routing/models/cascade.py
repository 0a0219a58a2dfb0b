"""Cascade routing: after every judged answer, stop or ask one more model.

A plan is a set of models that contains those already run (Dekoninck et al., "A unified approach to routing
and cascading for LLMs", 2025). It is worth the expected best of its answers less the price of those still to
run; the expectations are normal, and narrower for answers that a verifier has seen. If the best plan is what
has been run, the best answer so far is sent; else its next model is asked. A yes-or-no verdict would make all
answers equal, so the verifier must give grades (`verifier.py`).

A further model is only asked if its first token is predicted to come within the objective: an answer that is
better but too late misses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from cluster.config.model_routing import CascadeConfig
from cluster.entities.reasons import Reason

Numbers = NDArray[np.float64]

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_NODE_SHARES = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeOption:
    """A model that has not been run, with what is expected of it."""

    model: str
    quality: float
    """Expected, before anything of it is seen."""
    cost_usd: float
    ttft_s: float
    """Predicted by the pool as it is now."""
    usable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAnswer:
    """An answer that there is already."""

    model: str
    quality: float
    """Expected, now that the verifier has graded it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeStep:
    """What to do next."""

    model: str | None
    """To ask; None to stop."""
    answer: str | None
    """Whose answer is the best so far; None if there is none yet."""
    value: float
    """Of the plan: expected quality less the price still to pay."""
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    value: float
    further: tuple[CascadeOption, ...]


def next_step(
    answers: Sequence[JudgedAnswer],
    options: Sequence[CascadeOption],
    config: CascadeConfig,
    *,
    elapsed_s: float,
    ttft_slo_s: float,
) -> CascadeStep:
    """Stop, or the model to ask next.

    Args:
        answers: already given and graded; what they cost is spent and does not count any more.
        options: models that may still be asked.
        config: of the cascade.
        elapsed_s: since the request arrived.
        ttft_slo_s: by when the first token is promised.
    """
    best = max(answers, key=lambda answer: answer.quality, default=None)
    answer = best.model if best is not None else None
    asked = {given.model for given in answers}
    open_options = [option for option in options if option.usable and option.model not in asked]
    in_time = [option for option in open_options if elapsed_s + option.ttft_s <= ttft_slo_s]
    if not answers and not in_time:
        in_time = open_options  # late is better than nothing
    plan = _best_plan(answers, in_time, config)
    if plan.further:
        following = min(plan.further, key=lambda option: option.cost_usd)
        return CascadeStep(
            model=following.model, answer=answer, value=plan.value, reasons=(Reason.BETTER_MODEL_EXPECTED,)
        )
    if best is None:
        return CascadeStep(model=None, answer=None, value=0.0, reasons=(Reason.NO_MODEL,))
    late = _best_plan(answers, open_options, config).further
    reason = Reason.BETTER_MODEL_TOO_SLOW if late else Reason.ANSWER_GOOD_ENOUGH
    return CascadeStep(model=None, answer=answer, value=plan.value, reasons=(reason,))


def expected_best(means: Numbers, deviations: Numbers) -> float:
    """Mean of the largest of independent normal variables, by Gauss-Hermite quadrature."""
    at = means[:, None] + deviations[:, None] * _NODES
    below = ndtr((at[:, :, None] - means) / deviations)
    own = np.arange(len(means))
    below[own, :, own] = 1.0
    mass = below.prod(axis=2) * _NODE_SHARES
    return float((mass * at).sum() / mass.sum())


def _best_plan(
    answers: Sequence[JudgedAnswer], options: Sequence[CascadeOption], config: CascadeConfig
) -> _Plan:
    """The plan of highest value; more models only if each of them adds `gain_min`."""
    stop = _Plan(_value(answers, (), config), ())
    best = stop if answers else None
    for size in range(1, max(config.models_max - len(answers), 0) + 1):
        for further in combinations(options, size):
            value = _value(answers, further, config)
            needed = best.value + config.gain_min if best is not None else -np.inf
            if value > needed or (best is not None and len(best.further) == size and value > best.value):
                best = _Plan(value, further)
    return best or stop


def _value(
    answers: Sequence[JudgedAnswer], further: tuple[CascadeOption, ...], config: CascadeConfig
) -> float:
    if not answers and not further:
        return 0.0
    means = [answer.quality for answer in answers] + [option.quality for option in further]
    deviations = [config.sigma_after] * len(answers) + [config.sigma_before] * len(further)
    price = config.quality_per_usd * sum(option.cost_usd for option in further)
    if len(means) == 1:
        return means[0] - price
    return expected_best(np.array(means), np.array(deviations)) - price
