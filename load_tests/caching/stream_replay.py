"""One stream against one policy of the semantic cache, and the deployed policy made ready for that."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.config.semantic_cache import (
    BreakEvenConfig,
    CategoryCacheConfig,
    ErrorContractConfig,
    SemanticTierConfig,
)
from cluster.policy.semantic_cache.evidence import Judgement, wrong_upper_bound
from cluster.policy.semantic_cache.exact_scan import VectorIndex
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import StoredAnswer
from cluster.policy.semantic_cache.tier import SemanticQuery, SemanticTier, Verdict
from load_tests.caching.baselines import CachePolicy, Judge, Vectors
from load_tests.caching.streams import Prompt

_PARTITION = Partition("benchmark", "model", "scope")
_CONFIDENCE = 0.95
_FOREVER_S = 1e9
_DOCUMENT_BYTES = 1024
_EVIDENCE_FROM = 0.6
"""Similarity from which evidence is gathered: intents of a narrow domain are right far below common
thresholds."""


@dataclass(slots=True)
class Outcome:
    """What came of a stream, or of one category's part of it."""

    lookups: int = 0
    hits: int = 0
    wrong: int = 0
    fresh_answers: int = 0
    lookup_s: list[float] = field(default_factory=list)
    parts: "dict[str, Outcome]" = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        """The figures of a row."""
        hits = self.hits
        return {
            "lookups": self.lookups,
            "hits": hits,
            "hit_ratio": hits / self.lookups if self.lookups else 0.0,
            "wrong_among_hits": self.wrong / hits if hits else 0.0,
            "wrong_upper_bound": wrong_upper_bound(self.wrong, hits, confidence=_CONFIDENCE) if hits else 0.0,
            "fresh_answers": self.fresh_answers,
            **({"lookup_p50_s": float(np.median(self.lookup_s))} if self.lookup_s else {}),
        }


def replay(policy: CachePolicy, prompts: Sequence[Prompt], order: Sequence[int], *, skip: int = 0) -> Outcome:
    """Lets prompts arrive one after the other.

    Args:
        policy: Answers and learns.
        prompts: All of them.
        order: Their indices as they arrive.
        skip: So many at the beginning arrive and are not counted.
    """
    outcome = Outcome()
    for place, index in enumerate(order):
        fresh = policy.fresh_answers
        began_s = time.perf_counter()
        served = policy.arrive(index)
        took_s = time.perf_counter() - began_s
        if place < skip:
            continue
        outcome.lookup_s.append(took_s)
        part = outcome.parts.setdefault(prompts[index].category, Outcome())
        for each in (outcome, part):
            each.lookups += 1
            each.fresh_answers += policy.fresh_answers - fresh
            if served is not None:
                each.hits += 1
                each.wrong += prompts[served].answer != prompts[index].answer
    return outcome


def tier_config(prompts: Sequence[Prompt], *, delta: float, explore: float) -> SemanticTierConfig:
    """The deployed policy that has to find out for itself what may be served."""
    category = CategoryCacheConfig(
        error_max=delta,
        threshold_min=_EVIDENCE_FROM,
        explore_share=explore,
        ttl_s=_FOREVER_S,
        share_max=1.0,
        relaxation_max=0.0,
    )
    return SemanticTierConfig(
        default=category,
        entries_max=len(prompts),
        bytes_max=2**40,
        contract=ErrorContractConfig(verified=True),
        break_even=BreakEvenConfig(enabled=False),
    )


def fixed_config(prompts: Sequence[Prompt], thresholds: Mapping[str, float]) -> SemanticTierConfig:
    """The deployed policy with given thresholds, which it neither doubts nor explores."""
    categories = {
        category: CategoryCacheConfig(
            threshold=threshold,
            threshold_min=min(threshold, _EVIDENCE_FROM),
            explore_share=0.0,
            ttl_s=_FOREVER_S,
            share_max=1.0,
        )
        for category, threshold in thresholds.items()
    }
    return SemanticTierConfig(
        categories=categories,
        entries_max=len(prompts),
        bytes_max=2**40,
        contract=ErrorContractConfig(verified=False),
        break_even=BreakEvenConfig(enabled=False),
    )


class TierPolicy:
    """`SemanticTier` as the deployment drives it, in one partition and without documents."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        vectors: Vectors,
        config: SemanticTierConfig,
        *,
        judge: Judge | None,
        seed: int,
        new_index: Callable[[], VectorIndex] | None = None,
    ) -> None:
        self.fresh_answers = 0
        self.tier = SemanticTier(config, dimensions=vectors.shape[1], new_index=new_index)
        self._prompts = prompts
        self._vectors = vectors
        self._judge = judge
        self._draw = random.Random(seed)
        self._now_s = 0.0

    def arrive(self, index: int) -> int | None:
        """See `CachePolicy`."""
        prompt = self._prompts[index]
        self._now_s += 1.0
        query = SemanticQuery(
            partition=_PARTITION, text=prompt.text, vector=self._vectors[index], category=prompt.category
        )
        decision = self.tier.look_up(query, now_s=self._now_s, draw=self._draw.random())
        if decision.verdict is Verdict.SERVE and decision.entry is not None:
            return int(decision.entry.document_id)
        self._keep(index, prompt)
        if self._judge is not None and decision.entry is not None:
            # The entry's own text may be another one than the text its answer was computed for.
            is_wrong = not self._judge(index, int(decision.entry.document_id))
            judgement = Judgement(
                similarity=decision.similarity,
                is_wrong=is_wrong,
                around=decision.around,
                document_id=decision.entry.document_id,
            )
            self.tier.judged(prompt.category, judgement)
            self.tier.should_promote(str(index), decision.entry.entry_id, judgement)
            is_would_be_hit = decision.similarity >= self.tier.store.policy(prompt.category).threshold
            self.fresh_answers += decision.verdict is Verdict.EXPLORE or is_would_be_hit
        return None

    def _keep(self, index: int, prompt: Prompt) -> None:
        entry = StoredAnswer(
            entry_id=str(index),
            partition=_PARTITION,
            category=prompt.category,
            language="und",
            text=prompt.text,
            document_id=str(index),
            document_bytes=_DOCUMENT_BYTES,
            saved_s=1.0,
            saved_tokens=100,
            stored_at_s=self._now_s,
        )
        self.tier.store.put(entry, self._vectors[index])
