"""Policies without memory: rules written by a person, and one expert per category.

`category_map` follows Composition of Experts (arXiv 2412.01868): which model is best for one prompt is too
noisy to learn, so a prompt is first put into a category, and one whose category is uncertain goes to a
generalist.
"""

from collections.abc import Sequence
from typing import Protocol

from cluster.config.model_routing import CategoryMapConfig
from cluster.config.model_rules import ConditionConfig, RangeConfig, RuleConfig
from cluster.entities.model_routing import ModelCandidate, ModelChoice, ModelOutcome, ModelSignals
from cluster.entities.reasons import Reason
from cluster.policy.routing.models.chance import check_draw

_EMPTY = b"{}"


class _Preference(Protocol):
    def __call__(self, signals: ModelSignals) -> tuple[tuple[str, ...], Reason]:
        """Models in order of preference, and why."""


class FixedPolicy:
    """Takes the first usable model of a list that depends on the request alone. Learns nothing."""

    def __init__(self, name: str, preference: _Preference, models: tuple[str, ...]) -> None:
        self._name = name
        self._preference = preference
        self._models = models

    @property
    def name(self) -> str:
        """As in the configuration."""
        return self._name

    def initial(self) -> None:
        """There is nothing to remember."""

    def choose(
        self,
        signals: ModelSignals,
        candidates: Sequence[ModelCandidate],
        state: None,
        *,
        now_s: float,  # noqa: ARG002 - part of the interface
        draw: float,
    ) -> ModelChoice:
        """The preferred model that can answer; if none of them can, any other in the order configured."""
        del state
        check_draw(draw)
        usable = {candidate.model for candidate in candidates if candidate.usable}
        preferred, reason = self._preference(signals)
        order = (*preferred, *self._models, *sorted(usable))
        model = next((name for name in order if name in usable), None)
        if model is None:
            return ModelChoice(model=None, policy=self._name, reasons=(Reason.NO_MODEL,))
        reasons = (reason,) if model == preferred[0] else (reason, Reason.MODEL_UNUSABLE)
        return ModelChoice(
            model=model,
            policy=self._name,
            propensities={name: float(name == model) for name in sorted(usable)},
            reasons=reasons,
        )

    def learn(self, state: None, outcome: ModelOutcome, *, now_s: float) -> None:
        """Nothing changes."""

    def to_json(self, state: None) -> bytes:
        """An empty object."""
        del state
        return _EMPTY

    def from_json(self, data: bytes) -> None:
        """Accept what `to_json` wrote and nothing else."""
        if data != _EMPTY:
            raise ValueError(f"not a state of {self._name}: it keeps none")


def static(rules: tuple[RuleConfig, ...], default: str, models: tuple[str, ...]) -> FixedPolicy:
    """The first rule that fits a request names its models; without one, the default."""

    def preference(signals: ModelSignals) -> tuple[tuple[str, ...], Reason]:
        for rule in rules:
            if fits(rule.when, signals):
                return rule.use, Reason.RULE_MATCHED
        return (default,), Reason.NO_RULE_MATCHED

    return FixedPolicy("static", preference, models)


def category_map(config: CategoryMapConfig, default: str, models: tuple[str, ...]) -> FixedPolicy:
    """The expert of the request's category; the generalist if there is none or the category is uncertain."""
    generalist = config.fallback or default

    def preference(signals: ModelSignals) -> tuple[tuple[str, ...], Reason]:
        if signals.category_confidence < config.confidence_min:
            return (generalist,), Reason.CATEGORY_UNCERTAIN
        expert = config.experts.get(signals.category)
        if expert is None:
            return (generalist,), Reason.NO_RULE_MATCHED
        return (expert, generalist), Reason.EXPERT_OF_CATEGORY

    return FixedPolicy("category_map", preference, models)


def fits(when: ConditionConfig, signals: ModelSignals) -> bool:
    """Whether a request meets a condition."""
    return (
        (when.category is None or signals.category in when.category)
        and (when.language is None or signals.language in when.language)
        and (when.goal is None or signals.goal in when.goal)
        and (when.tools is None or signals.tools == when.tools)
        and _inside(when.prompt_tokens, signals.prompt_tokens)
        and _inside(when.complexity, signals.complexity)
        and _inside(when.turns, signals.turns)
        and _hints_fit(when.hints, dict(signals.hints))
    )


def _inside(limits: RangeConfig | None, value: float) -> bool:
    if limits is None:
        return True
    return limits.at_least <= value and (limits.below is None or value < limits.below)


def _hints_fit(wanted: dict[str, tuple[str, ...]], given: dict[str, str]) -> bool:
    return all(given.get(name) in values for name, values in wanted.items())
