"""What all scoring policies share: quality weighed against money, energy and time, a budget, and chance.

A scorer knows only how good a model's answer would be; everything else is here, once, so that goals, budgets
and logged propensities mean the same with every scorer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster.config.model_routing import GoalsConfig, ModelRoutingConfig, WeightsConfig
from cluster.entities.model_routing import Goal, ModelCandidate, ModelChoice, ModelOutcome, ModelSignals
from cluster.entities.reasons import Reason
from cluster.policy.routing.models.budget_pacer import BudgetPacer, PacedRow, PacerState
from cluster.policy.routing.models.chance import check_draw, drawn, with_uniform_share
from cluster.policy.routing.models.features import FeatureMap
from cluster.policy.routing.models.needs_model import NeedsModel
from cluster.policy.routing.models.ridge_bank import RidgeBank, bank_fields
from cluster.policy.routing.models.state_json import decode_state, encode_state, entry
from cluster.policy.routing.models.usage import (
    Needs,
    Usage,
    needs,
    usage_fields,
    usage_from,
    with_outcome,
)

StateT = TypeVar("StateT")
Numbers = NDArray[np.float64]

_DOUBT = 2.0
"""By how much the mean of n answers may mislead: this over the root of n, as a share of it."""
_UNJUDGED_PER_TRIAL = 10
"""Where few answers are judged, less than one of so many, a trial ends after so many times the answers that
should have been."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A request that every model in it has answered: what a warm start is fitted on."""

    signals: ModelSignals
    quality: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Expected quality of each candidate's answer, and the standard deviation the scorer gives it."""

    quality: Numbers
    width: Numbers


class Scorer(Protocol[StateT]):
    """Learns how good each model's answers are."""

    @property
    def name(self) -> str:
        """As in `routing.models.policy`."""

    @property
    def learns_burden(self) -> bool:
        """Whether what an answer took changes what is learnt of its quality."""

    def initial(self) -> StateT:
        """The state before anything was judged."""

    def fitted(self, examples: Sequence[Example]) -> StateT:
        """The state after requests that several models have answered."""

    def version(self, state: StateT) -> int:
        """Judged answers in it."""

    def expected(self, signals: ModelSignals, models: Sequence[str], state: StateT) -> Expected:
        """Of these models' answers."""

    def scores(self, quality: Numbers, weight: float, burden: Numbers) -> Numbers:
        """What is compared, higher is better; `burden` is what money, energy and time weigh together."""

    def chances(self, scores: Numbers, found: Expected) -> Numbers:
        """With what probability each is picked, the uniform share left out."""

    def tendency(self, scores: Numbers) -> Numbers:
        """The same for many rows of scores at once, uncertainty left out."""

    def uniform_share(self, state: StateT) -> float:
        """Share of requests whose model is drawn uniformly."""

    def learn(
        self, state: StateT, signals: ModelSignals, model: str, quality: float, burden: float
    ) -> StateT:
        """The state after one more judged answer."""

    def fields(self, state: StateT) -> dict[str, Any]:
        """For the disk."""

    def from_fields(self, fields: dict[str, Any]) -> StateT:
        """Read `fields`; ValueError if it is not of this shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredState(Generic[StateT]):
    """What a scorer has learnt, what answers took, and what the pacer has spent."""

    scorer: StateT
    judged: Mapping[str, int]
    """Judged answers by model; the one that was silent longest stands first."""
    usage: Usage
    needs: RidgeBank
    pacer: PacerState


class ScoredPolicy(Generic[StateT]):
    """Takes the model with the highest quality less what its answer takes, priced by goal and budget."""

    def __init__(
        self,
        scorer: Scorer[StateT],
        config: ModelRoutingConfig,
        features: FeatureMap,
        warm_start: bytes | None = None,
    ) -> None:
        self._scorer = scorer
        self._needs = NeedsModel(config, features)
        self._goals = config.goals
        self._window = config.window_answers
        self._models_max = config.models_max
        self._trial_share = config.trial_share
        self._trial_answers = config.trial_answers
        self._default = config.default
        self._pacer = BudgetPacer(config.budgets)
        self._initial = ScoredState(
            scorer=scorer.initial(),
            judged={},
            usage=Usage(),
            needs=self._needs.initial(),
            pacer=self._pacer.initial(),
        )
        if warm_start is not None:
            # what was spent elsewhere is not owed here
            self._initial = replace(self.from_json(warm_start), pacer=self._pacer.initial())

    @property
    def name(self) -> str:
        """The scorer's; with a budget, that of the pacer as well."""
        return f"{self._scorer.name}+budget_pacer" if self._pacer.active else self._scorer.name

    def initial(self) -> ScoredState[StateT]:
        """Nothing learnt, or the warm start."""
        return self._initial

    def fitted(self, examples: Sequence[Example], outcomes: Sequence[ModelOutcome]) -> ScoredState[StateT]:
        """A warm start: quality from the examples, what answers take from the outcomes."""
        usage, taken = Usage(), self._needs.initial()
        for outcome in outcomes:
            taken = self._needs.learn(taken, outcome, usage)
            usage = with_outcome(usage, outcome, window=self._window, models_max=self._models_max)
        return ScoredState(
            scorer=self._scorer.fitted(examples),
            judged=Counter(model for example in examples for model in example.quality),
            usage=usage,
            needs=taken,
            pacer=self._pacer.initial(),
        )

    def choose(
        self,
        signals: ModelSignals,
        candidates: Sequence[ModelCandidate],
        state: ScoredState[StateT],
        *,
        now_s: float,  # noqa: ARG002 - part of the interface; forgetting counts answers
        draw: float,
    ) -> ModelChoice:
        """Choose; see the interface. The draw picks from exactly the propensities that the choice reports."""
        check_draw(draw)
        usable = [candidate for candidate in candidates if candidate.usable]
        version = self._scorer.version(state.scorer)
        if not usable:
            return ModelChoice(model=None, policy=self.name, version=version, reasons=(Reason.NO_MODEL,))
        models = [candidate.model for candidate in usable]
        found = self._scorer.expected(signals, models, state.scorer)
        need = needs(state.usage, usable, self._needs.factors(signals, models, state.needs))
        scores = self._scores(signals.goal, found, need)
        prices = self._pacer.prices(state.pacer, signals.tenant)
        paced = scores - prices.usd * need.cost_usd - prices.j * need.energy_j
        chances, little_known = self._chances(
            tenant=signals.tenant, models=models, state=state, found=found, need=need, paced=paced
        )
        index = drawn(chances, draw)
        return ModelChoice(
            model=models[index],
            policy=self.name,
            version=version,
            scores=dict(zip(models, paced.tolist(), strict=True)),
            propensities=dict(zip(models, chances.tolist(), strict=True)),
            reasons=_reasons(candidates, scores, chances, index, little_known=little_known),
        )

    def expected_quality(
        self, signals: ModelSignals, models: Sequence[str], state: ScoredState[StateT]
    ) -> dict[str, float]:
        """Expected quality of each model's answer, 0..1, before anything of it is seen."""
        found = np.clip(self._scorer.expected(signals, models, state.scorer).quality, 0.0, 1.0)
        return dict(zip(models, found.tolist(), strict=True))

    def learn(
        self,
        state: ScoredState[StateT],
        outcome: ModelOutcome,
        *,
        now_s: float,  # noqa: ARG002
    ) -> ScoredState[StateT]:
        """One more outcome; see the interface."""
        usage, taken = state.usage, state.needs
        if not outcome.counted:
            taken = self._needs.learn(taken, outcome, usage)
            usage = with_outcome(usage, outcome, window=self._window, models_max=self._models_max)
        scorer, judged = state.scorer, state.judged
        if outcome.quality is not None:
            burden = self._burden_of(outcome, usage) if self._scorer.learns_burden else 0.0
            scorer = self._scorer.learn(scorer, outcome.signals, outcome.model, outcome.quality, burden)
            judged = self._judged(judged, outcome.model)
        pacer = state.pacer
        if self._pacer.active and not outcome.counted:
            pacer = self._pacer.learn(
                pacer, outcome, self._row(outcome, scorer, usage, taken), self._scorer.tendency
            )
        return ScoredState(scorer=scorer, judged=judged, usage=usage, needs=taken, pacer=pacer)

    def to_json(self, state: ScoredState[StateT]) -> bytes:
        """Everything, the pacer's window included."""
        return encode_state(
            self._scorer.name,
            {
                "scorer": self._scorer.fields(state.scorer),
                "judged": list(state.judged.items()),
                "usage": usage_fields(state.usage),
                "needs": bank_fields(state.needs),
                "pacer": self._pacer.fields(state.pacer),
            },
        )

    def from_json(self, data: bytes) -> ScoredState[StateT]:
        """Read what `to_json` wrote."""
        fields = decode_state(self._scorer.name, data)
        return ScoredState(
            scorer=self._scorer.from_fields(entry(fields, "scorer", dict)),
            judged=_judged_from(entry(fields, "judged", list)),
            usage=usage_from(entry(fields, "usage", dict), window=self._window),
            needs=self._needs.from_fields(entry(fields, "needs", dict)),
            pacer=self._pacer.from_fields(entry(fields, "pacer", dict)),
        )

    def _scores(self, goal: Goal, found: Expected, need: Needs) -> Numbers:
        weights = _weights(self._goals, goal)
        return self._scorer.scores(found.quality, weights.quality, _burden(weights, need))

    def _chances(
        self,
        *,
        tenant: str,
        models: Sequence[str],
        state: ScoredState[StateT],
        found: Expected,
        need: Needs,
        paced: Numbers,
    ) -> tuple[Numbers, bool]:
        """The scorer's chances among what is affordable, with the shares for exploration and trials.

        And whether they are not the scorer's, because too little is known of the model that leads.
        """
        affordable = self._pacer.affordable(state.pacer, tenant, need)
        share = self._scorer.uniform_share(state.scorer)
        share = self._pacer.uniform_share(share, tenant, need, affordable)
        within = Expected(quality=found.quality[affordable], width=found.width[affordable])
        picked = self._scorer.chances(paced[affordable], within)
        untried = np.array([self._is_untried(model, state) for model in models])
        instead = self._instead(int(np.flatnonzero(affordable)[np.argmax(picked)]), models, state, affordable)
        if instead is not None:
            picked = instead
        chances = np.zeros(len(models))
        chances[affordable] = with_uniform_share(picked, share)
        if untried.any():
            untried &= self._pacer.affordable(state.pacer, tenant, _at_least(need, models, state.usage))
        trials = self._pacer.trial_shares(self._trial_share, state.pacer, tenant, need=need, untried=untried)
        return np.asarray((1 - trials.sum()) * chances + trials), instead is not None

    def _instead(
        self, leading: int, models: Sequence[str], state: ScoredState[StateT], affordable: NDArray[np.bool_]
    ) -> Numbers | None:
        """Chances of the affordable models while the lead of one means nothing: little is known of it."""
        names = [model for model, fits in zip(models, affordable, strict=True) if fits]
        if not self._trial_share:
            return None
        if (
            self._default in names
            and state.judged.get(models[leading], 0) < self._trial_answers
            and _is_seldom_judged(state)
        ):
            return np.array([float(name == self._default) for name in names])
        if self._is_untried(models[leading], state):
            answers = np.array([_answers(name, state.usage) for name in names])
            fewest = answers == answers.min()
            return np.asarray(fewest / fewest.sum())
        return None

    def _is_untried(self, model: str, state: ScoredState[StateT]) -> bool:
        judged = state.judged.get(model, 0)
        unjudged_max = _UNJUDGED_PER_TRIAL * self._trial_answers
        return judged < self._trial_answers and _answers(model, state.usage) < unjudged_max

    def _judged(self, judged: Mapping[str, int], model: str) -> dict[str, int]:
        counts = {name: count for name, count in judged.items() if name != model}
        while len(counts) >= self._models_max:
            del counts[next(iter(counts))]
        return {**counts, model: judged.get(model, 0) + 1}

    def _burden_of(self, outcome: ModelOutcome, usage: Usage) -> float:
        """What the answering model's answers take, on the scale of all known models."""
        if outcome.model not in usage.models:
            return 0.0  # counted elsewhere, and forgotten since
        models = sorted(usage.models)
        need = needs(usage, [ModelCandidate(model=model) for model in models])
        weighed = _burden(_weights(self._goals, outcome.signals.goal), need)
        return float(weighed[models.index(outcome.model)])

    def _row(self, outcome: ModelOutcome, scorer: StateT, usage: Usage, taken: RidgeBank) -> PacedRow:
        """What the known models would have scored and taken on the request of an outcome."""
        known = [ModelCandidate(model=model) for model in sorted(usage.models)]
        models = tuple(candidate.model for candidate in known)
        need = needs(usage, known, self._needs.factors(outcome.signals, models, taken))
        found = self._scorer.expected(outcome.signals, models, scorer)
        scores = self._scores(outcome.signals.goal, found, need)
        return PacedRow(
            models=models,
            scores=scores,
            cost_usd=need.cost_usd,
            energy_j=need.energy_j,
            usual_usd=need.usual_usd,
            usual_j=need.usual_j,
        )


def _is_seldom_judged(state: ScoredState[Any]) -> bool:
    answers = sum(used.count for used in state.usage.models.values())
    return _UNJUDGED_PER_TRIAL * sum(state.judged.values()) <= answers


def _answers(model: str, usage: Usage) -> int:
    return usage.models[model].count if model in usage.models else 0


def _at_least(need: Needs, models: Sequence[str], usage: Usage) -> Needs:
    """What answers may take if those seen were unluckily long: one freak must not end a model's trial."""
    counts = np.array([_answers(model, usage) or np.inf for model in models])
    doubt = 1 + _DOUBT / np.sqrt(counts)
    return replace(need, cost_usd=need.cost_usd / doubt, energy_j=need.energy_j / doubt)


def _judged_from(pairs: list[Any]) -> dict[str, int]:
    try:
        return {str(model): int(count) for model, count in pairs}
    except (TypeError, ValueError) as error:
        raise ValueError("state: judged should hold a number for each model") from error


def _burden(weights: WeightsConfig, need: Needs) -> Numbers:
    return weights.cost * need.cost + weights.energy * need.energy + weights.latency * need.latency


def _weights(goals: GoalsConfig, goal: Goal) -> WeightsConfig:
    return {Goal.BALANCED: goals.balanced, Goal.CHEAP: goals.cheap, Goal.QUALITY: goals.quality}[goal]


def _reasons(
    candidates: Sequence[ModelCandidate], scores: Numbers, chances: Numbers, index: int, *, little_known: bool
) -> tuple[Reason, ...]:
    if len(chances) == 1 and len(candidates) == 1:
        return (Reason.ONLY_CANDIDATE,)
    likeliest = int(np.argmax(chances))
    reasons = [Reason.HIGHEST_SCORE if index == likeliest else Reason.EXPLORED]
    if little_known:
        reasons = [Reason.LITTLE_KNOWN]
    elif likeliest != int(np.argmax(scores)):
        reasons.append(Reason.BUDGET_TIGHT)
    if len(chances) < len(candidates):
        reasons.append(Reason.MODEL_UNUSABLE)
    return tuple(reasons)
