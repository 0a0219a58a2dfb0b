"""Recursive ridge regressions, one per model over the same features, each with one or more outputs.

Per model, for its own answers, with g for forgetting: A ← gA + xxᵀ, B ← gB + yxᵀ, θ = BA⁻¹. A model that is
not asked forgets nothing. A⁻¹ is kept and updated by Sherman and Morrison's formula, O(d²). Forgetting also
wears the ridge penalty down, which would let the uncertainty of features that never occur grow without bound;
it is restored when half of it is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.policy.routing.models.state_json import array, entry

Numbers = NDArray[np.float64]

_PENALTY_LEFT_MIN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeBank:
    """Arrays have one row per model, in the order of `models`."""

    models: tuple[str, ...] = ()
    answers: int = 0
    """That were learnt from, of all models."""
    inverse: Numbers
    response: Numbers
    """By output."""
    theta: Numbers
    prior: Numbers
    """θ that the penalty pulls towards."""
    penalty: Numbers
    """Share of the penalty that forgetting has left."""
    touched: Numbers
    """`answers` at the model's last one."""


def empty_bank(size: int, outputs: int) -> RidgeBank:
    """Knows no model."""
    by_output = np.zeros((0, outputs, size))
    return RidgeBank(
        inverse=np.zeros((0, size, size)),
        response=by_output,
        theta=by_output,
        prior=by_output,
        penalty=np.zeros(0),
        touched=np.zeros(0),
    )


def with_model(
    bank: RidgeBank, model: str, prior: Numbers, *, regularisation: float, models_max: int
) -> RidgeBank:
    """A copy that has a row for the model, if need be in place of the one that was silent longest."""
    rows = np.arange(len(bank.models))
    if model not in bank.models and len(rows) >= models_max:
        rows = np.delete(rows, np.argmin(bank.touched))
    kept = RidgeBank(
        models=tuple(bank.models[row] for row in rows),
        answers=bank.answers,
        inverse=bank.inverse[rows],
        response=bank.response[rows],
        theta=bank.theta[rows],
        prior=bank.prior[rows],
        penalty=bank.penalty[rows],
        touched=bank.touched[rows],
    )
    if model in kept.models:
        return kept
    size = kept.inverse.shape[1]
    return RidgeBank(
        models=(*kept.models, model),
        answers=kept.answers,
        inverse=np.concatenate([kept.inverse, np.eye(size)[None] / regularisation]),
        response=np.concatenate([kept.response, regularisation * prior[None]]),
        theta=np.concatenate([kept.theta, prior[None]]),
        prior=np.concatenate([kept.prior, prior[None]]),
        penalty=np.append(kept.penalty, 1.0),
        touched=np.append(kept.touched, float(kept.answers)),
    )


def learnt(
    copy: RidgeBank, model: str, x: Numbers, y: Numbers, *, forgetting: float, regularisation: float
) -> RidgeBank:
    """One more answer of a model that `copy` has a row for; the arrays of `copy` are written to."""
    index = copy.models.index(model)
    inverse = copy.inverse[index] / forgetting
    seen = inverse @ x
    inverse -= np.outer(seen, seen) / (1 + x @ seen)
    response = copy.response[index] * forgetting + np.outer(y, x)
    penalty = float(copy.penalty[index]) * forgetting
    if penalty < _PENALTY_LEFT_MIN:
        worn = regularisation * (1 - penalty)
        inverse = np.linalg.inv(np.linalg.inv(inverse) + worn * np.eye(len(x)))
        response += worn * copy.prior[index]
        penalty = 1.0
    copy.inverse[index] = inverse
    copy.response[index] = response
    copy.theta[index] = response @ inverse
    copy.penalty[index] = penalty
    copy.touched[index] = copy.answers + 1
    return replace(copy, answers=copy.answers + 1)


def bank_fields(bank: RidgeBank) -> dict[str, Any]:
    """For the state on disk."""
    return {
        "models": list(bank.models),
        "answers": bank.answers,
        "inverse": bank.inverse,
        "response": bank.response,
        "theta": bank.theta,
        "prior": bank.prior,
        "penalty": bank.penalty,
        "touched": bank.touched,
    }


def bank_from(fields: Mapping[str, Any], size: int, outputs: int) -> RidgeBank:
    """Read `bank_fields`.

    Raises:
        ValueError: it is not of this shape, features and outputs included.
    """
    models = tuple(str(model) for model in entry(fields, "models", list))
    count = len(models)
    return RidgeBank(
        models=models,
        answers=entry(fields, "answers", int),
        inverse=array(fields, "inverse", (count, size, size)),
        response=array(fields, "response", (count, outputs, size)),
        theta=array(fields, "theta", (count, outputs, size)),
        prior=array(fields, "prior", (count, outputs, size)),
        penalty=array(fields, "penalty", (count,)),
        touched=array(fields, "touched", (count,)),
    )
