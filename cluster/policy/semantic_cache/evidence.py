"""The error contract: P(wrong | served from the cache) stays below what the category allows.

It exists because no similarity makes a near match right: errors among hits floor at 7-9 % on Quora's
questions at every threshold. What may be served has to be found out from answers that were computed although
a stored one was near. Those are free below the threshold, where a request is computed anyway, and cost a
fresh answer above it, where a small random share is. Errors are bounded among served answers, not among all
requests: else one hit in five may be wrong while the promise holds. The bound is Clopper and Pearson's
(Biometrika 26, 1934).

Categories share their evidence through `RiskModel`, which orders near matches of all of them by how likely
they are wrong; the bound is taken over all that are at least as safe. A category whose own evidence proves
more errors than it allows is tightened by itself.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from cluster.config.semantic_cache import CategoryCacheConfig, ErrorContractConfig
from cluster.policy.semantic_cache.risk import Numbers, RiskModel, fit_risk
from cluster.policy.semantic_cache.surroundings import ALONE, FEATURES, Surroundings

NOTHING_IS_SERVED = 9.0
"""A threshold that no score reaches: what stands around a match lifts scores above 1."""
_STEP = 0.005
"""How far a threshold is raised at a time while a category's own evidence speaks against it."""
_ROUNDING = 1e-6
_STRATUM = 0.05
"""Judgements are forgotten only for newer ones of like similarity: those above the threshold are few and
dear."""
_STRATA = 8
_REFUTED_MAX = 65_536
"""Answers whose refutals are remembered; those refuted longest ago are forgotten."""
_REFIT_AFTER = 10
"""Judgements between two fits, at least…"""
_REFIT_SHARE = 0.01
"""… and as a part of those that are known: one more says the less the more there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A near match that was answered fresh, and whether the stored answer would have been wrong."""

    similarity: float
    is_wrong: bool
    around: Surroundings = ALONE
    document_id: str = ""
    """The stored answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What is known of the hits above a threshold."""

    threshold: float
    judged: int
    wrong: int
    upper: float

    @property
    def rate(self) -> float:
        """The estimate itself; 0 where nothing was judged."""
        return self.wrong / self.judged if self.judged else 0.0


def wrong_upper_bound(wrong: int, judged: int, *, confidence: float) -> float:
    """The largest rate of wrong answers that is compatible with what was judged (one-sided).

    Raises:
        ValueError: more wrong than judged, or negative counts.
    """
    if not 0 <= wrong <= judged:
        raise ValueError(f"{wrong} wrong of {judged} judged")
    return 1.0 if wrong == judged else float(betaincinv(wrong + 1, judged - wrong, confidence))


class Evidence:
    """The last judgements of all categories, and the thresholds that follow from them."""

    def __init__(self, config: ErrorContractConfig, policy_of: Callable[[str], CategoryCacheConfig]) -> None:
        self._config = config
        self._policy_of = policy_of
        self._strata: dict[tuple[str, int], deque[Judgement]] = {}
        self._tables: dict[str, _Table] = {}
        self._bounds: dict[str, Bound] = {}
        self._thresholds: dict[str, float] = {}
        self._floors: dict[str, float] = {}
        self._cutoffs: dict[float, float] = {}
        self._model = RiskModel()
        self._refuted: OrderedDict[str, int] = OrderedDict()
        self._until_refit = _REFIT_AFTER

    def threshold(self, category: str) -> float:
        """The score from which a near match may be served now."""
        if category not in self._thresholds:
            self._decide(category)
        return self._thresholds[category]

    def score(self, similarity: float, around: Surroundings) -> float:
        """The similarity, and what stands around the match."""
        return similarity + self._model.lift(around)

    def refuted(self, document_id: str) -> int:
        """How often an answer was judged wrong for a near text."""
        return self._refuted.get(document_id, 0)

    def floor(self, category: str) -> float:
        """The lowest threshold that the evidence would still allow: as far as load may go."""
        self.threshold(category)
        return self._floors[category]

    def observe(self, category: str, judgement: Judgement) -> float:
        """Takes a judgement in and says what the category's threshold is now."""
        self._remember(category, judgement)
        self._until_refit -= 1
        if self._until_refit <= 0:
            self._refit()
        elif judgement.is_wrong and self._score(judgement) >= self.threshold(category):
            # What was about to be served is wrong: nobody should wait for that to count.
            self._decide(category)
        return self.threshold(category)

    def _remember(self, category: str, judgement: Judgement) -> None:
        stratum = min(_STRATA - 1, max(0, int((1.0 - judgement.similarity) / _STRATUM)))
        size = max(1, self._config.judgements_max // _STRATA)
        self._strata.setdefault((category, stratum), deque(maxlen=size)).append(judgement)
        self._tables.pop(category, None)
        self._bounds.pop(category, None)
        if judgement.is_wrong and judgement.document_id:
            self._refute(judgement.document_id)

    def bound(self, category: str, threshold: float) -> Bound:
        """The bound on wrong answers among near matches of a category from a score on."""
        known = self._bounds.get(category)
        if known is not None and known.threshold == threshold:
            return known
        table = self._table(category)
        above = table.scores(self._model) >= threshold
        judged, wrong = int(above.sum()), int(table.wrong[above].sum())
        upper = wrong_upper_bound(wrong, judged, confidence=self._config.confidence) if judged else 1.0
        bound = Bound(threshold=threshold, judged=judged, wrong=wrong, upper=upper)
        self._bounds[category] = bound
        return bound

    def judgements(self, category: str) -> list[Judgement]:
        """What is remembered of a category."""
        return [each for (name, _), kept in self._strata.items() if name == category for each in kept]

    def everything(self) -> Iterator[tuple[str, Judgement]]:
        """What is remembered of all of them."""
        return ((name, each) for (name, _), kept in self._strata.items() for each in kept)

    def restore(self, judgements: Sequence[tuple[str, Judgement]]) -> None:
        """Takes up what an earlier process knew."""
        for category, judgement in judgements:
            self._remember(category, judgement)
        self._refit()

    def _refute(self, document_id: str) -> None:
        self._refuted[document_id] = self._refuted.pop(document_id, 0) + 1
        if len(self._refuted) > _REFUTED_MAX:
            self._refuted.popitem(last=False)

    def _score(self, judgement: Judgement) -> float:
        return self.score(judgement.similarity, judgement.around)

    def _table(self, category: str) -> "_Table":
        table = self._tables.get(category)
        if table is None:
            table = self._tables[category] = _Table.of(self.judgements(category))
        return table

    def _refit(self) -> None:
        categories = sorted({name for name, _ in self._strata})
        tables = [self._table(name) for name in categories]
        if not tables:
            return
        wrong = np.concatenate([table.wrong for table in tables])
        self._until_refit = max(_REFIT_AFTER, int(_REFIT_SHARE * len(wrong)))
        names = [name for name, table in zip(categories, tables, strict=True) for _ in table.wrong]
        similarities = np.concatenate([table.similarities for table in tables])
        around = np.concatenate([table.around for table in tables])
        self._model = fit_risk(names, similarities, around, wrong)
        self._bounds.clear()
        logits = np.concatenate(
            [
                self._model.logits(table.scores(self._model), name)
                for name, table in zip(categories, tables, strict=True)
            ]
        )
        order = np.argsort(logits, kind="stable")
        uppers = _cumulative_uppers(wrong[order], self._config.confidence)
        limits = {self._policy_of(name).error_max for name in {*self._thresholds, *categories}}
        self._cutoffs = {}
        for limit in limits:
            for share in (limit, limit * self._config.slack):
                allowed = np.flatnonzero(uppers <= share)
                self._cutoffs[share] = float(logits[order][allowed[-1]]) if len(allowed) else -np.inf
        for category in {*self._thresholds, *categories}:
            self._decide(category)

    def _decide(self, category: str) -> None:
        """The threshold goes down where the bound leaves slack, up where it does not hold."""
        policy = self._policy_of(category)
        present = self._thresholds.get(category, NOTHING_IS_SERVED)
        if self._config.verified:
            floor = self._lowest(category, policy, policy.error_max)
            easy = self._lowest(category, policy, policy.error_max * self._config.slack)
            threshold = min(max(present, floor), easy)
        else:
            floor = threshold = policy.threshold
        threshold = self._unproven(category, policy, threshold)
        self._thresholds[category] = threshold
        self._floors[category] = max(min(floor, threshold), self._unproven(category, policy, floor))

    def _lowest(self, category: str, policy: CategoryCacheConfig, limit: float) -> float:
        """The lowest score whose bound over all categories is within a limit."""
        cutoff = self._cutoffs.get(limit, -np.inf)
        if not np.isfinite(cutoff):
            return NOTHING_IS_SERVED
        # The judged match at the cutoff itself is within it, rounding or not.
        score = self._model.score_at(cutoff, category) - _ROUNDING
        return min(max(score, policy.threshold_min), NOTHING_IS_SERVED)

    def _unproven(self, category: str, policy: CategoryCacheConfig, threshold: float) -> float:
        """The threshold, raised until the category's own evidence does not prove too many errors any more."""
        if threshold >= NOTHING_IS_SERVED:
            return NOTHING_IS_SERVED
        table = self._table(category)
        scores = table.scores(self._model)
        highest = float(scores.max(initial=threshold))
        candidates = threshold + _STEP * np.arange(int((highest - threshold) / _STEP) + 2)
        order = np.argsort(scores)
        below = np.searchsorted(scores[order], candidates)
        wrong_from = np.append(np.cumsum(table.wrong[order][::-1])[::-1], 0.0)[below]
        right_from = len(scores) - below - wrong_from
        # The smallest rate of wrong ones that is compatible with what was judged above a candidate.
        lower = np.where(
            wrong_from > 0,
            1.0 - betaincinv(right_from + 1, np.maximum(wrong_from, 1e-9), self._config.confidence),
            0.0,
        )
        return float(candidates[np.flatnonzero(lower <= policy.error_max)[0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """The judgements of a category as columns."""

    similarities: Numbers
    around: Numbers
    wrong: Numbers

    @classmethod
    def of(cls, judgements: Sequence[Judgement]) -> "_Table":
        return cls(
            similarities=np.array([each.similarity for each in judgements]),
            around=np.array([each.around.features() for each in judgements]).reshape(-1, FEATURES),
            wrong=np.array([float(each.is_wrong) for each in judgements]),
        )

    def scores(self, model: RiskModel) -> Numbers:
        return model.scores(self.similarities, self.around)


def _cumulative_uppers(wrong: Numbers, confidence: float) -> Numbers:
    """Upper bounds over the first one, two, three… judgements."""
    judged = np.arange(1, len(wrong) + 1)
    errors = np.cumsum(wrong)
    uppers = betaincinv(errors + 1, np.maximum(judged - errors, 1e-9), confidence)
    return np.where(errors == judged, 1.0, uppers)
