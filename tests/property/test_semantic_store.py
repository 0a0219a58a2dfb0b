"""Invariants of the semantic tier's store and of what it serves.

1. No look-up ever returns an entry of another partition (tenant, model, scope): 100,000 random operations.
2. After a purge nothing that it covers is found; nothing is older than its category allows when it is served.
3. Bounds hold after every operation, and documents are freed exactly when nobody refers to them.
4. Serving never makes an entry younger.
5. The index gives what looking at every vector gives.
"""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config.semantic_cache import (
    BreakEvenConfig,
    CategoryCacheConfig,
    ErrorContractConfig,
    SemanticTierConfig,
)
from cluster.policy.semantic_cache.exact_scan import ExactScan
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import PurgeScope, StoredAnswer
from cluster.policy.semantic_cache.tier import SemanticQuery, SemanticTier, Verdict
from tests.examples import examples

DIMENSIONS = 8
TTL_S = 500.0
CATEGORIES = ("code", "chat", "law")
TEXTS = [f"a question about thing number {number} of the list" for number in range(40)]
OPERATIONS = 100_000


def new_tier(entries_max=300):
    category = CategoryCacheConfig(
        threshold=0.3, threshold_min=0.1, ttl_s=TTL_S, explore_share=0.0, share_max=0.5, relaxation_max=0.0
    )
    return SemanticTier(
        SemanticTierConfig(
            enabled=True,
            default=category,
            entries_max=entries_max,
            contract=ErrorContractConfig(verified=False),
            break_even=BreakEvenConfig(enabled=False),
        ),
        dimensions=DIMENSIONS,
    )


def unit(generator):
    vector = generator.normal(size=DIMENSIONS).astype(np.float32)
    return vector / np.linalg.norm(vector)


def partition(draw):
    return Partition(
        f"tenant {draw.randrange(6)}", f"model {draw.randrange(3)}", f"scope {draw.randrange(3)}"
    )


def entry_of(number, where, draw, now_s):
    return StoredAnswer(
        entry_id=str(number),
        partition=where,
        category=draw.choice(CATEGORIES),
        language="und",
        text=draw.choice(TEXTS),
        document_id=f"{where}#{number}",
        document_bytes=draw.randrange(2000),
        saved_s=draw.random(),
        saved_tokens=1,
        stored_at_s=now_s,
    )


def test_no_answer_crosses_tenants_models_or_scopes():
    draw, generator = random.Random(7), np.random.default_rng(7)
    vectors = {text: unit(generator) for text in TEXTS}
    tier = new_tier()
    now_s = 0.0
    served = 0
    for number in range(OPERATIONS):
        now_s += draw.random()
        where = partition(draw)
        what = draw.random()
        if what < 0.55:
            text = draw.choice(TEXTS)
            query = SemanticQuery(
                partition=where, text=text, vector=vectors[text], category=draw.choice(CATEGORIES)
            )
            found = tier.look_up(query, now_s=now_s, draw=draw.random())
            if found.verdict is Verdict.SERVE:
                served += 1
                assert found.entry.partition == where
                # A shared answer was computed for the same partition, whoever points to it.
                assert found.entry.document_id.startswith(f"{where}#")
                assert now_s - found.entry.stored_at_s < TTL_S
        elif what < 0.9:
            entry = entry_of(number, where, draw, now_s)
            tier.store.put(entry, vectors[entry.text])
        elif what < 0.96:
            ids = [entry.entry_id for entry in tier.store.entries()]
            if ids:
                tier.store.promote(draw.choice(ids), draw.choice(ids))
        elif what < 0.98:
            tier.store.expire(now_s=now_s)
        else:
            scope = PurgeScope(
                tenant=draw.choice([None, where.tenant]),
                model=draw.choice([None, where.model]),
                category=draw.choice([None, *CATEGORIES]),
            )
            tier.store.purge(scope)
            assert not [entry for entry in tier.store.entries() if scope.covers(entry)]
    assert served > 1000


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), entries_max=st.integers(1, 20))
def test_bounds_hold_and_documents_are_freed_when_nobody_refers_to_them(seed, entries_max):
    draw, generator = random.Random(seed), np.random.default_rng(seed)
    store = new_tier(entries_max).store
    alive = set()
    for number in range(120):
        what = draw.random()
        ids = [entry.entry_id for entry in store.entries()]
        if what < 0.6 or not ids:
            entry = entry_of(number, partition(draw), draw, float(number))
            if store.put(entry, unit(generator)):
                alive.add(entry.document_id)
        elif what < 0.75:
            store.promote(draw.choice(ids), draw.choice(ids))
        elif what < 0.9:
            store.used(store.get(draw.choice(ids)))
        else:
            store.purge(PurgeScope(category=draw.choice(CATEGORIES)))
        alive -= set(store.freed_documents())
        assert alive == {entry.document_id for entry in store.entries()}
        assert len(store) <= entries_max
        assert all(count <= store.quota(category) for category, count in store.counts().items())
    store.purge(PurgeScope())
    assert (len(store), store.bytes, store.partitions) == (0, 0, 0)


def test_a_hit_does_not_renew_an_answer():
    draw, generator = random.Random(3), np.random.default_rng(3)
    tier = new_tier()
    where = partition(draw)
    vector = unit(generator)
    tier.store.put(entry_of(1, where, draw, 0.0), vector)
    text = next(tier.store.entries()).text
    query = SemanticQuery(partition=where, text=text, vector=vector, category="code")
    for now_s in np.arange(0.0, TTL_S, 50.0):
        assert tier.look_up(query, now_s=float(now_s), draw=1.0).verdict is Verdict.SERVE
    assert tier.look_up(query, now_s=TTL_S, draw=1.0).verdict is Verdict.MISS


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12))
def test_the_index_is_the_same_as_looking_at_every_vector(seed, count):
    draw, generator = random.Random(seed), np.random.default_rng(seed)
    index, kept = ExactScan(DIMENSIONS), {}
    for key in range(80):
        kept[key] = unit(generator)
        index.add(key, kept[key])
        if draw.random() < 0.4:
            gone = draw.choice(list(kept))
            index.remove(gone)
            del kept[gone]
    asked = unit(generator)
    expected = sorted((float(vector @ asked) for vector in kept.values()), reverse=True)[:count]
    found = index.nearest(asked, count)
    assert np.allclose([cosine for _, cosine in found], expected, atol=1e-6)
    assert all(np.isclose(kept[key] @ asked, cosine, atol=1e-6) for key, cosine in found)
