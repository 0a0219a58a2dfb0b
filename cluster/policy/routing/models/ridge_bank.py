"""Recursive ridge regressions over the same features, one per model, each shrunk to what all models share.

An output of model k is level_k + (shared + own_k)ᵀx. What all models share, because a prompt is hard or asks
for a long answer whoever gives it, is one ridge over everybody's answers, each less its model's mean. A
model's own ridge is pulled towards it, the harder the fewer answers the model has given: a hierarchical
linear model, fitted by one step of backfitting per answer (Gelman and Hill, "Data analysis using regression
and multilevel/hierarchical models", 2007, ch. 12). With one ridge per model and nothing shared, a model that
is seldom asked is taken for whatever its few answers happened to be.

Per model, for its own answers, with g for forgetting and λ for the penalties: A ← gA + xxᵀ, B ← gB + yxᵀ,
θ = (B + λ·shared)A⁻¹. A model that is not asked forgets nothing. A⁻¹ is kept and updated by Sherman and
Morrison's formula, O(d²). Forgetting also wears the penalty down, which would let the uncertainty of features
that never occur grow without bound; it is restored when half of it is gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.policy.routing.models.state_json import array, entry

Numbers = NDArray[np.float64]

_PENALTY_LEFT_MIN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeRules:
    """What does not change while a bank learns."""

    size: int
    """Features; the first is a constant."""
    prior: Numbers
    """Of each output, before the first answer of any model."""
    regularisation: float
    """Penalty, in answers, on a model's level and on what is shared."""
    own_penalty: float
    """Penalty on what tells a model's answers apart from the others', as a multiple of `regularisation`."""
    forgetting: float
    models_max: int

    @property
    def outputs(self) -> int:
        """Numbers that are predicted for each model."""
        return len(self.prior)

    @property
    def own(self) -> Numbers:
        """Penalty of each feature in a model's own ridge."""
        penalties = np.full(self.size, self.regularisation * self.own_penalty)
        penalties[0] = self.regularisation
        return penalties

    @property
    def shared(self) -> Numbers:
        """Penalty of each feature in the ridge over all answers."""
        return np.full(self.size, self.regularisation)


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeBank:
    """Arrays have one row per model, in the order of `models`, but for what is shared."""

    models: tuple[str, ...]
    answers: int
    """That were learnt from, of all models."""
    inverse: Numbers
    response: Numbers
    """By output."""
    theta: Numbers
    penalty: Numbers
    """Share of the penalty that forgetting has left."""
    touched: Numbers
    """`answers` at the model's last one."""
    level: Numbers
    """Sum of each output over the answers that are remembered."""
    weight: Numbers
    """Number of those answers."""
    shared_inverse: Numbers
    shared_response: Numbers
    shared_penalty: float


def empty_bank(rules: RidgeRules) -> RidgeBank:
    """Knows no model."""
    by_output = np.zeros((0, rules.outputs, rules.size))
    return RidgeBank(
        models=(),
        answers=0,
        inverse=np.zeros((0, rules.size, rules.size)),
        response=by_output,
        theta=by_output,
        penalty=np.zeros(0),
        touched=np.zeros(0),
        level=np.zeros((0, rules.outputs)),
        weight=np.zeros(0),
        shared_inverse=np.diag(1 / rules.shared),
        shared_response=np.zeros((rules.outputs, rules.size)),
        shared_penalty=1.0,
    )


def unknown(bank: RidgeBank, rules: RidgeRules) -> Numbers:
    """θ of a model without answers, by output: what is shared, at the level of the mean model."""
    theta = bank.shared_response @ bank.shared_inverse
    theta[:, 0] = _mean_level(bank, rules)
    return np.asarray(theta)


def learnt(bank: RidgeBank, rules: RidgeRules, model: str, x: Numbers, y: Numbers) -> RidgeBank:
    """The bank after one more answer; if need be the model takes the place of the one silent longest."""
    copy = _with_model(bank, rules, model)
    index = copy.models.index(model)
    beyond = y - _levels(copy, rules)[index]
    forgetting = rules.forgetting
    copy.inverse[index], copy.penalty[index] = _absorbed(
        copy.inverse[index], float(copy.penalty[index]), x, forgetting, rules.own
    )
    copy.response[index] = copy.response[index] * forgetting + np.outer(y, x)
    copy.level[index] = copy.level[index] * forgetting + y
    copy.weight[index] = copy.weight[index] * forgetting + 1
    copy.touched[index] = copy.answers + 1
    # everybody's answers pass here: it remembers as many of each model as the model itself does
    remembered = 1 - (1 - forgetting) / len(copy.models)
    varying = x.copy()
    varying[0] = 0.0
    shared_inverse, shared_penalty = _absorbed(
        copy.shared_inverse, copy.shared_penalty, varying, remembered, rules.shared
    )
    return _solved(
        RidgeBank(
            models=copy.models,
            answers=copy.answers + 1,
            inverse=copy.inverse,
            response=copy.response,
            theta=copy.theta,
            penalty=copy.penalty,
            touched=copy.touched,
            level=copy.level,
            weight=copy.weight,
            shared_inverse=shared_inverse,
            shared_response=copy.shared_response * remembered + np.outer(beyond, varying),
            shared_penalty=shared_penalty,
        ),
        rules,
    )


def fitted(
    rules: RidgeRules, rows: Numbers, answers: Mapping[str, tuple[Sequence[int], Numbers]], weight: float
) -> RidgeBank:
    """The bank over many answers at once.

    Args:
        rules: of the bank.
        rows: features, one row per request.
        answers: for each model, which rows it has answered, and its output for each of them.
        weight: of an answer; below 1, the bank begins to follow newer ones sooner.
    """
    bank = empty_bank(rules)
    for model in sorted(answers):
        bank = _with_model(bank, rules, model)
    gram = np.diag(rules.shared)
    for index, model in enumerate(bank.models):
        seen, outputs = rows[answers[model][0]], answers[model][1][:, None]
        bank.inverse[index] = np.linalg.inv(np.diag(rules.own) + weight * seen.T @ seen)
        bank.response[index] = weight * outputs.T @ seen
        bank.level[index] = weight * outputs.sum(axis=0)
        bank.weight[index] = weight * len(seen)
        varying = seen.copy()
        varying[:, 0] = 0.0
        gram += weight * varying.T @ varying
        bank.shared_response[:] += weight * (outputs - outputs.mean(axis=0)).T @ varying
    bank.shared_inverse[:] = np.linalg.inv(gram)
    return _solved(bank, rules)


def bank_fields(bank: RidgeBank) -> dict[str, Any]:
    """For the state on disk; θ follows from the rest."""
    return {
        "models": list(bank.models),
        "answers": bank.answers,
        "inverse": bank.inverse,
        "response": bank.response,
        "penalty": bank.penalty,
        "touched": bank.touched,
        "level": bank.level,
        "weight": bank.weight,
        "shared_inverse": bank.shared_inverse,
        "shared_response": bank.shared_response,
        "shared_penalty": bank.shared_penalty,
    }


def bank_from(fields: Mapping[str, Any], rules: RidgeRules) -> RidgeBank:
    """Read `bank_fields`.

    Raises:
        ValueError: it is not of this shape, features and outputs included.
    """
    models = tuple(str(model) for model in entry(fields, "models", list))
    count, size, outputs = len(models), rules.size, rules.outputs
    return _solved(
        RidgeBank(
            models=models,
            answers=entry(fields, "answers", int),
            inverse=array(fields, "inverse", (count, size, size)),
            response=array(fields, "response", (count, outputs, size)),
            theta=np.zeros((count, outputs, size)),
            penalty=array(fields, "penalty", (count,)),
            touched=array(fields, "touched", (count,)),
            level=array(fields, "level", (count, outputs)),
            weight=array(fields, "weight", (count,)),
            shared_inverse=array(fields, "shared_inverse", (size, size)),
            shared_response=array(fields, "shared_response", (outputs, size)),
            shared_penalty=entry(fields, "shared_penalty", float),
        ),
        rules,
    )


def _mean_level(bank: RidgeBank, rules: RidgeRules) -> Numbers:
    """Of the mean model, each output."""
    if not bank.models:
        return rules.prior
    return np.asarray(((bank.level + rules.prior) / (bank.weight[:, None] + 1)).mean(axis=0))


def _levels(bank: RidgeBank, rules: RidgeRules) -> Numbers:
    """Each model's mean output, shrunk to that of the mean model."""
    penalty = rules.regularisation
    return np.asarray((bank.level + penalty * _mean_level(bank, rules)) / (bank.weight[:, None] + penalty))


def _solved(bank: RidgeBank, rules: RidgeRules) -> RidgeBank:
    """The bank with every model's θ, which moves with what is shared; `bank.theta` is written to."""
    pull = bank.penalty[:, None, None] * rules.own * unknown(bank, rules)
    np.matmul(bank.response + pull, bank.inverse, out=bank.theta)
    return bank


def _absorbed(
    inverse: Numbers, penalty: float, x: Numbers, forgetting: float, penalties: Numbers
) -> tuple[Numbers, float]:
    """A⁻¹ and what is left of the penalty, after one more row."""
    inverse = np.asarray(inverse / forgetting)
    seen = inverse @ x
    inverse -= np.outer(seen, seen) / (1 + x @ seen)
    penalty *= forgetting
    if penalty < _PENALTY_LEFT_MIN:
        worn = np.diag((1 - penalty) * penalties)
        return np.asarray(np.linalg.inv(np.linalg.inv(inverse) + worn), dtype=np.float64), 1.0
    return inverse, penalty


def _with_model(bank: RidgeBank, rules: RidgeRules, model: str) -> RidgeBank:
    """A copy that has a row for the model."""
    if model in bank.models:
        return RidgeBank(
            models=bank.models,
            answers=bank.answers,
            inverse=bank.inverse.copy(),
            response=bank.response.copy(),
            theta=np.empty_like(bank.theta),
            penalty=bank.penalty.copy(),
            touched=bank.touched.copy(),
            level=bank.level.copy(),
            weight=bank.weight.copy(),
            shared_inverse=bank.shared_inverse,
            shared_response=bank.shared_response,
            shared_penalty=bank.shared_penalty,
        )
    rows = np.arange(len(bank.models))
    if len(rows) >= rules.models_max:
        rows = np.delete(rows, np.argmin(bank.touched))
    return RidgeBank(
        models=(*(bank.models[row] for row in rows), model),
        answers=bank.answers,
        inverse=np.concatenate([bank.inverse[rows], np.diag(1 / rules.own)[None]]),
        response=np.concatenate([bank.response[rows], np.zeros((1, rules.outputs, rules.size))]),
        theta=np.concatenate([bank.theta[rows], np.zeros((1, rules.outputs, rules.size))]),
        penalty=np.append(bank.penalty[rows], 1.0),
        touched=np.append(bank.touched[rows], float(bank.answers)),
        level=np.concatenate([bank.level[rows], np.zeros((1, rules.outputs))]),
        weight=np.append(bank.weight[rows], 0.0),
        shared_inverse=bank.shared_inverse.copy(),
        shared_response=bank.shared_response.copy(),
        shared_penalty=bank.shared_penalty,
    )
