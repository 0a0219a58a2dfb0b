"""The decision about one look-up, and what is learnt from what came of it.

One object for the deployment and for the benchmarks, so that what is measured is what runs. It holds the
store, the evidence and the worth of every category; time, chance and load are arguments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from cluster.config.semantic_cache import CategoryCacheConfig, SemanticTierConfig
from cluster.policy.semantic_cache.break_even import Worth
from cluster.policy.semantic_cache.evidence import Bound, Evidence, Judgement
from cluster.policy.semantic_cache.exact_scan import Vector, VectorIndex
from cluster.policy.semantic_cache.guards import Guard, TextFacts, conflict, facts_of
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.relaxation import HeldLoad, relaxed_threshold, relaxed_ttl_s
from cluster.policy.semantic_cache.store import Removal, SemanticStore, StoredAnswer
from cluster.policy.semantic_cache.surroundings import ALONE, Surroundings, surroundings

NEIGHBOURS = 8
"""Entries looked at: where a guard forbids the nearest, the next may be a true paraphrase, and those that
share its answer speak for it."""
_FACTS_KEPT = 2048
"""Reading a text takes 60 µs and what is popular is compared often; 6 MB at most for usual questions."""


@lru_cache(maxsize=_FACTS_KEPT)
def _facts(text: str, language: str) -> TextFacts:
    return facts_of(text, language=language)


class Verdict(StrEnum):
    """What becomes of a look-up (label of `tidemill_cache_semantic_lookups_total`)."""

    SERVE = "serve"
    EXPLORE = "explore"
    """It would be served, and is answered fresh so that it can be judged."""
    NEAR = "near"
    """Near, and not near enough to be served: answered fresh and judged."""
    MISS = "miss"
    OFF = "off"
    """The category is not answered from near matches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticQuery:
    """A text with what was read from it."""

    partition: Partition
    text: str
    vector: Vector
    category: str
    language: str = "und"


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticDecision:
    """A verdict and what it was made from."""

    verdict: Verdict
    threshold: float
    similarity: float = 0.0
    """Of the entry, or of the nearest one that a guard refused; 0 where nothing is near."""
    around: Surroundings = ALONE
    entry: StoredAnswer | None = None
    guard: Guard | None = None
    """What refused the nearest entry, if something did."""


class SemanticTier:
    """Near matches of all tenants. `now_s` must not go backwards between calls."""

    def __init__(
        self,
        config: SemanticTierConfig,
        *,
        dimensions: int,
        new_index: Callable[[], VectorIndex] | None = None,
    ) -> None:
        self._config = config
        self.store = SemanticStore(config, dimensions=dimensions, new_index=new_index)
        self.evidence = Evidence(config.contract, self.store.policy)
        self._worths: dict[str, Worth] = {}
        self._load = HeldLoad()

    @property
    def load_level(self) -> float:
        """The load that thresholds and ages follow now."""
        return self._load.level

    def see_load(self, level: float, *, now_s: float) -> None:
        """Takes in how overloaded the fleet is, 0 to 1."""
        self._load = self._load.seen(level, now_s=now_s, hold_s=self._config.load_hold_s)

    def worth(self, category: str) -> Worth:
        """What is known of a category's look-ups."""
        return self._worths.get(category, Worth())

    def categories(self) -> list[str]:
        """All that were asked about."""
        return list(self._worths)

    def threshold(self, category: str) -> float:
        """The score (similarity and surroundings) from which near matches of a category are served now."""
        return relaxed_threshold(
            self.evidence.threshold(category),
            self.store.policy(category),
            level=self._load.level,
            floor=self.evidence.floor(category),
        )

    def look_up(self, query: SemanticQuery, *, now_s: float, draw: float) -> SemanticDecision:
        """What to do with a request.

        Args:
            query: What is asked.
            now_s: The time.
            draw: A random number from 0 to 1, which decides whether a hit is explored.
        """
        policy = self.store.policy(query.category)
        worth = self._decided(query.category, policy, now_s)
        threshold = self.threshold(query.category)
        if not policy.allow or worth.off_since_s is not None:
            self._worths[query.category] = worth
            return SemanticDecision(verdict=Verdict.OFF, threshold=threshold)
        decision = self._found(query, policy, threshold=threshold, now_s=now_s, draw=draw)
        is_hit = decision.verdict in {Verdict.SERVE, Verdict.EXPLORE}
        self._worths[query.category] = worth.looked_up(
            is_hit=is_hit, now_s=now_s, config=self._config.break_even
        )
        if decision.verdict is Verdict.SERVE and decision.entry is not None:
            self.store.used(decision.entry)
        return decision

    def would_serve(self, query: SemanticQuery, *, now_s: float) -> bool:
        """Whether a look-up would find an entry to serve in memory, or may not look for one."""
        policy = self.store.policy(query.category)
        if not policy.allow or self.worth(query.category).off_since_s is not None:
            return True
        threshold = self.threshold(query.category)
        decision = self._found(query, policy, threshold=threshold, now_s=now_s, draw=1.0)
        return decision.verdict is Verdict.SERVE

    def judged(self, category: str, judgement: Judgement) -> float:
        """Takes in whether a near match would have been right; the threshold from now on."""
        return self.evidence.observe(category, judgement)

    def should_promote(self, entry_id: str, onto: str, judgement: Judgement) -> bool:
        """Lets an entry share the answer that it was judged to share; never what is asked right now."""
        return not judgement.is_wrong and self.store.promote(entry_id, onto)

    def answered(self, category: str, *, model_s: float) -> None:
        """Takes in what a fresh answer took."""
        self._worths[category] = self.worth(category).answered(model_s)

    def bound(self, category: str) -> Bound:
        """What is known of the errors among hits of a category at its threshold."""
        return self.evidence.bound(category, self.threshold(category))

    def break_even(self, category: str) -> float:
        """The hit rate from which look-ups of a category pay."""
        return self.worth(category).threshold(
            self._config.break_even,
            wrong_rate=self.bound(category).rate,
            wrong_answer_loss=self.store.policy(category).wrong_answer_loss,
        )

    def _decided(self, category: str, policy: CategoryCacheConfig, now_s: float) -> Worth:
        worth = self.worth(category)
        is_judged_now = worth.off_since_s is None and worth.lookups >= self._config.break_even.lookups_min
        return worth.decided(
            self._config.break_even,
            wrong_rate=self.bound(category).rate if is_judged_now else 0.0,
            wrong_answer_loss=policy.wrong_answer_loss,
            now_s=now_s,
        )

    def _found(
        self,
        query: SemanticQuery,
        policy: CategoryCacheConfig,
        *,
        threshold: float,
        now_s: float,
        draw: float,
    ) -> SemanticDecision:
        neighbours = self.store.nearest(query.partition, query.vector, NEIGHBOURS)
        ttl_s = relaxed_ttl_s(policy, level=self._load.level)
        entry, similarity, guard = self._usable(query, neighbours, policy, ttl_s=ttl_s, now_s=now_s)
        if entry is None:
            return SemanticDecision(
                verdict=Verdict.MISS, threshold=threshold, similarity=similarity, guard=guard
            )
        around = surroundings(
            entry.document_id,
            [(each.document_id, cosine) for each, cosine in neighbours],
            refuted=self.evidence.refuted(entry.document_id),
        )
        score = self.evidence.score(similarity, around)
        if score < threshold:
            verdict = Verdict.NEAR
        else:
            verdict = Verdict.EXPLORE if draw < policy.explore_share else Verdict.SERVE
        return SemanticDecision(
            verdict=verdict,
            threshold=threshold,
            similarity=similarity,
            around=around,
            entry=entry,
            guard=guard,
        )

    def _usable(
        self,
        query: SemanticQuery,
        neighbours: Sequence[tuple[StoredAnswer, float]],
        policy: CategoryCacheConfig,
        *,
        ttl_s: float,
        now_s: float,
    ) -> tuple[StoredAnswer | None, float, Guard | None]:
        """The nearest entry that is young enough and that no guard forbids."""
        asked = None
        refused: Guard | None = None
        for entry, similarity in neighbours:
            if similarity < policy.threshold_min:
                break
            if now_s - entry.stored_at_s >= ttl_s:
                self.store.remove(entry.entry_id, Removal.EXPIRED)
                continue
            asked = asked or _facts(query.text, query.language)
            found = conflict(asked, _facts(entry.text, entry.language))
            if found is None:
                return entry, similarity, refused
            refused = refused or found
        return None, neighbours[0][1] if neighbours else 0.0, refused
