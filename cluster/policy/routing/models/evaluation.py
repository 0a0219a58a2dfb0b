"""What another model-routing policy would have reached on the traffic of a log, without sending it any.

A log holds for every request with what probability each model was chosen. That is enough for unbiased
estimates of any policy that chooses nothing the log never chose (Horvitz-Thompson; Dudík, Langford and Li,
"Doubly robust policy evaluation and learning", 2011; Swaminathan and Joachims for the self-normalised form,
2015).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster.config.model_routing import FeaturesConfig
from cluster.entities.model_routing import ModelCandidate, ModelSignals
from cluster.policy.routing.models.features import FeatureMap
from cluster.policy.routing.models.interface import ModelPolicy

StateT = TypeVar("StateT")
Numbers = NDArray[np.float64]

EFFECTIVE_SAMPLES_MIN = 50.0
"""Below, a bootstrap over so few weights says little about their tail."""
UNSUPPORTED_SHARE_MAX = 0.05
"""Above, too much of what the policy would do was never done: the estimates leave that part out."""


class Overlap(StrEnum):
    """Whether the log tells enough about the policy."""

    ENOUGH = "enough"
    TOO_FEW_EFFECTIVE_SAMPLES = "too_few_effective_samples"
    """The policy seldom agrees with the log, so a few records carry all the weight."""
    UNSUPPORTED_CHOICES = "unsupported_choices"
    """The policy would choose models where the log could not have chosen them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedChoice:
    """One request of the log, judged."""

    signals: ModelSignals
    candidates: tuple[ModelCandidate, ...]
    propensities: dict[str, float]
    """By model, as logged."""
    chosen: str
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEvaluation:
    """What the log says of a policy. The estimates are the mean reward per request."""

    policy: str
    requests: int
    logged: Interval
    """What the policy that wrote the log reached."""
    ips: Interval
    """Inverse propensity scoring: unbiased, wide."""
    snips: Interval
    """Self-normalised: slightly biased, narrower, never outside the rewards' range."""
    dr: Interval
    """Doubly robust: a reward model, corrected where the log agrees with the policy."""
    effective_samples: float
    """(Σw)² / Σw²: how many equally weighted records would be as telling."""
    unsupported_share: float
    """Share of the policy's choices that the log could not have made."""
    overlap: Overlap

    @property
    def tells(self) -> bool:
        """False if the overlap is too poor to tell; the estimates must then not be acted on."""
        return self.overlap is Overlap.ENOUGH


def evaluate_policy(
    log: Sequence[LoggedChoice],
    policy: ModelPolicy[StateT],
    state: StateT,
    *,
    now_s: float,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> PolicyEvaluation:
    """Estimate a policy with a fixed state on a log.

    Intervals are percentiles of a bootstrap over the requests, drawn with `seed`.

    Args:
        log: judged choices.
        policy: to evaluate.
        state: that it would have had throughout.
        now_s: Unix time that the policy is told.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        confidence: that the intervals are to have.

    Raises:
        ValueError: the log is empty, or holds a choice of propensity 0.
    """
    if not log:
        raise ValueError("nothing to evaluate on: the log holds no judged choice")
    wanted = [
        policy.choose(entry.signals, entry.candidates, state, now_s=now_s, draw=0.0).propensities
        for entry in log
    ]
    return _evaluation(policy.name, log, wanted, seed=seed, resamples=resamples, confidence=confidence)


def _evaluation(
    name: str,
    log: Sequence[LoggedChoice],
    wanted: Sequence[dict[str, float]],
    *,
    seed: int,
    resamples: int,
    confidence: float,
) -> PolicyEvaluation:
    given = np.array([entry.propensities.get(entry.chosen, 0.0) for entry in log])
    if (given <= 0).any():
        raise ValueError(f"record {int(np.argmax(given <= 0))}: its choice has propensity 0")
    reward = np.array([entry.reward for entry in log])
    weight = np.array([target.get(entry.chosen, 0.0) for entry, target in zip(log, wanted, strict=True)])
    weight /= given
    expected, of_chosen = _model_values(log, wanted, reward, seed)
    corrected = expected + weight * (reward - of_chosen)
    unsupported = float(
        np.mean(
            [
                sum(p for model, p in target.items() if entry.propensities.get(model, 0.0) <= 0)
                for entry, target in zip(log, wanted, strict=True)
            ]
        )
    )
    effective = float(weight.sum() ** 2 / np.square(weight).sum()) if weight.any() else 0.0
    picks = _Bootstrap(len(log), seed=seed, resamples=resamples, confidence=confidence)
    return PolicyEvaluation(
        policy=name,
        requests=len(log),
        logged=picks.of_mean(reward),
        ips=picks.of_mean(weight * reward),
        snips=picks.of_ratio(weight * reward, weight),
        dr=picks.of_mean(corrected),
        effective_samples=effective,
        unsupported_share=unsupported,
        overlap=_overlap(effective, unsupported),
    )


def _overlap(effective: float, unsupported: float) -> Overlap:
    if unsupported > UNSUPPORTED_SHARE_MAX:
        return Overlap.UNSUPPORTED_CHOICES
    if effective < EFFECTIVE_SAMPLES_MIN:
        return Overlap.TOO_FEW_EFFECTIVE_SAMPLES
    return Overlap.ENOUGH


class _Bootstrap:
    """Percentile intervals over the same resampled requests for every estimator."""

    def __init__(self, size: int, *, seed: int, resamples: int, confidence: float) -> None:
        chance = np.random.default_rng(seed)
        shares = np.full(size, 1 / size)
        self._counts = [chance.multinomial(size, shares).astype(np.uint16) for _ in range(resamples)]
        self._tails = ((1 - confidence) / 2, (1 + confidence) / 2)

    def of_mean(self, values: Numbers) -> Interval:
        return self.of_ratio(values, np.ones_like(values))

    def of_ratio(self, numerator: Numbers, denominator: Numbers) -> Interval:
        """Of Σ numerator / Σ denominator; 0 where nothing was weighted."""
        sums = [(counts @ numerator, counts @ denominator) for counts in self._counts]
        ratios = [float(above / below) if below else 0.0 for above, below in sums]
        low, high = np.quantile(np.array(ratios), self._tails)
        below = float(denominator.sum())
        value = float(numerator.sum()) / below if below else 0.0
        return Interval(value=value, low=float(low), high=float(high))


def _model_values(
    log: Sequence[LoggedChoice], wanted: Sequence[dict[str, float]], reward: Numbers, seed: int
) -> tuple[Numbers, Numbers]:
    """Modelled reward of what the policy would choose, and of what was chosen.

    A ridge per model, fitted on one half of the log and asked about the other, so that no record is
    predicted by a model that has seen it.
    """
    features = FeatureMap.over(FeaturesConfig(), categories=tuple({entry.signals.category for entry in log}))
    rows = np.stack([features.vector(entry.signals) for entry in log])
    half = np.random.default_rng(seed).permutation(len(log)) % 2
    expected = np.zeros(len(log))
    of_chosen = np.zeros(len(log))
    chosen = np.array([entry.chosen for entry in log])
    for fold in (0, 1):
        fit = half != fold
        mean = float(reward[fit].mean()) if fit.any() else float(reward.mean())
        weights = {
            str(model): _ridge(rows[fit & (chosen == model)], reward[fit & (chosen == model)] - mean)
            for model in set(chosen.tolist())
        }
        for index in np.flatnonzero(half == fold):
            value = {model: mean + float(rows[index] @ theta) for model, theta in weights.items()}
            expected[index] = sum(p * value.get(model, mean) for model, p in wanted[index].items())
            of_chosen[index] = value[log[index].chosen]
    return expected, of_chosen


def _ridge(rows: Numbers, values: Numbers) -> Numbers:
    size = rows.shape[1]
    solved: Any = np.linalg.solve(rows.T @ rows + np.eye(size), rows.T @ values)
    return np.asarray(solved, dtype=np.float64)
