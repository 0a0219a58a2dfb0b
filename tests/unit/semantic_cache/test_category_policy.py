"""Break-even, load, evidence and eviction: the numbers behind what a category may serve and keep."""

import math
import random

import numpy as np
import pytest

from cluster.config.semantic_cache import BreakEvenConfig, CategoryCacheConfig, ErrorContractConfig
from cluster.policy.semantic_cache.break_even import Worth, break_even_hit_rate
from cluster.policy.semantic_cache.eviction import Worths
from cluster.policy.semantic_cache.evidence import (
    NOTHING_IS_SERVED,
    Evidence,
    Judgement,
    wrong_upper_bound,
)
from cluster.policy.semantic_cache.relaxation import HeldLoad, relaxed_threshold, relaxed_ttl_s
from cluster.policy.semantic_cache.risk import fit_risk
from cluster.policy.semantic_cache.surroundings import Surroundings, surroundings

CATEGORY = CategoryCacheConfig(threshold=0.9, threshold_min=0.6, error_max=0.05)


def test_break_even_is_the_cost_of_looking_over_what_a_hit_saves():
    assert break_even_hit_rate(lookup_s=0.03, fetch_s=0.0, model_s=0.2) == pytest.approx(0.15)
    costly = break_even_hit_rate(
        lookup_s=0.03, fetch_s=0.0, model_s=0.2, wrong_rate=0.08, wrong_answer_loss=10
    )
    assert costly == pytest.approx(0.75)
    assert math.isinf(break_even_hit_rate(lookup_s=0.03, fetch_s=0.3, model_s=0.2))


def after(lookups, hits, config, now_s=0.0):
    worth = Worth(model_s=1.0)
    for number in range(lookups):
        worth = worth.looked_up(is_hit=number < hits, now_s=now_s, config=config)
    return worth.decided(config, wrong_rate=0.0, wrong_answer_loss=0.0, now_s=now_s)


def test_a_category_below_break_even_is_turned_off_and_tried_again():
    config = BreakEvenConfig(lookup_cost_s=0.1, fetch_cost_s=0, lookups_min=50, probe_after_s=100)
    assert after(49, 0, config).off_since_s is None
    assert after(50, 6, config).off_since_s is None
    off = after(50, 4, config)
    assert off.off_since_s == 0.0
    decide = {"wrong_rate": 0.0, "wrong_answer_loss": 0.0}
    assert off.decided(config, now_s=99.0, **decide).off_since_s == 0.0
    probe = off.decided(config, now_s=100.0, **decide)
    assert (probe.off_since_s, probe.lookups) == (None, 0.0)


def test_load_lowers_thresholds_at_once_and_raises_them_after_a_while():
    held = HeldLoad().seen(0.8, now_s=0, hold_s=30)
    assert held.level == 0.8
    held = held.seen(0.1, now_s=1, hold_s=30).seen(0.1, now_s=30, hold_s=30)
    assert held.level == 0.8
    assert held.seen(0.1, now_s=31, hold_s=30).level == 0.1


def test_load_never_goes_below_what_evidence_and_configuration_allow():
    full = {"category": CATEGORY, "level": 1.0}
    assert relaxed_threshold(0.9, floor=0.0, **full) == pytest.approx(0.88)
    assert relaxed_threshold(0.9, floor=0.895, **full) == 0.895
    assert relaxed_threshold(0.61, floor=0.0, **full) == 0.6
    assert relaxed_threshold(0.9, floor=0.95, **full) == 0.9
    assert relaxed_ttl_s(CATEGORY, level=1.0) == pytest.approx(1.5 * CATEGORY.ttl_s)


@pytest.mark.parametrize(("wrong", "judged", "expected"), [(0, 59, 0.0495), (1, 93, 0.05), (10, 100, 0.1637)])
def test_the_bound_is_clopper_and_pearsons(wrong, judged, expected):
    assert wrong_upper_bound(wrong, judged, confidence=0.95) == pytest.approx(expected, abs=6e-4)


def judged_stream(count, error, seed, similarity=(0.85, 0.99)):
    draw = random.Random(seed)
    return [
        Judgement(similarity=draw.uniform(*similarity), is_wrong=draw.random() < error) for _ in range(count)
    ]


def evidence_of(judgements, category="c", **contract):
    evidence = Evidence(ErrorContractConfig(**contract), lambda _: CATEGORY)
    for judgement in judgements:
        evidence.observe(category, judgement)
    return evidence


def test_nothing_is_served_without_evidence_and_much_with_good_evidence():
    assert evidence_of([]).threshold("c") == NOTHING_IS_SERVED
    assert evidence_of(judged_stream(20, 0.0, 1)).threshold("c") == NOTHING_IS_SERVED
    assert evidence_of(judged_stream(600, 0.0, 1)).threshold("c") < 0.9


@pytest.mark.parametrize("seed", range(20))
def test_a_category_with_too_many_errors_serves_nothing(seed):
    assert evidence_of(judged_stream(400, 0.12, seed)).threshold("c") == NOTHING_IS_SERVED


def test_a_threshold_goes_up_when_errors_come():
    evidence = evidence_of(judged_stream(600, 0.0, 1))
    before = evidence.threshold("c")
    for judgement in judged_stream(60, 0.9, 2):
        evidence.observe("c", judgement)
    assert evidence.threshold("c") > before


def test_a_threshold_that_is_trusted_stays_until_it_is_disproved():
    assert evidence_of([], verified=False).threshold("c") == CATEGORY.threshold
    doubtful = evidence_of(judged_stream(200, 0.3, 3), verified=False)
    assert doubtful.threshold("c") > CATEGORY.threshold


def test_a_bad_category_does_not_serve_on_the_evidence_of_good_ones():
    evidence = evidence_of(judged_stream(1500, 0.0, 1), "good")
    for judgement in judged_stream(60, 0.5, 2):
        evidence.observe("bad", judgement)
    assert evidence.threshold("good") < 1.0
    assert evidence.threshold("bad") > evidence.threshold("good") + 0.1


def test_the_model_of_risk_finds_what_it_was_made_from():
    draw = np.random.default_rng(1)
    similarities = draw.uniform(0.6, 1.0, 4000)
    around = [
        Surroundings(
            agreeing=int(draw.integers(1, 8)),
            rivalry=draw.uniform(0, 5),
            second=draw.uniform(0.4, 0.9),
            refuted=int(draw.integers(0, 4)),
        )
        for _ in range(4000)
    ]
    features = np.array([each.features() for each in around])
    offsets = np.where(np.arange(4000) % 2 == 0, 1.0, -1.0)
    true = np.array([-0.7, 0.4, -0.3, 0.8])
    logits = -0.5 - 0.8 * (similarities - 0.8) / 0.1 + features @ true + offsets
    wrong = (draw.random(4000) < 1 / (1 + np.exp(-logits))).astype(float)
    names = ["bad" if offset > 0 else "good" for offset in offsets]
    model = fit_risk(names, similarities, features, wrong)
    assert model.slope == pytest.approx(-0.8, abs=0.12)
    assert model.weights == pytest.approx(true, abs=0.15)
    assert model.offsets["bad"] - model.offsets["good"] == pytest.approx(2.0, abs=0.25)
    assert model.logit(model.score_at(-2.0, "bad"), "bad") == pytest.approx(-2.0)
    alone = Surroundings()
    assert model.lift(alone) == 0.0
    assert model.lift(Surroundings(agreeing=4)) > 0.0 > model.lift(Surroundings(rivalry=2.0))
    assert model.lift(Surroundings(second=0.9)) > 0.0 > model.lift(Surroundings(refuted=1))


def test_nothing_that_stands_around_a_match_counts_the_wrong_way_round():
    draw = np.random.default_rng(2)
    around = draw.uniform(0, 3, (2000, 4))
    wrong = (draw.random(2000) < 1 / (1 + np.exp(-around @ [1.0, -1.0, 1.0, -1.0]))).astype(float)
    model = fit_risk(["c"] * 2000, draw.uniform(0.6, 1.0, 2000), around, wrong)
    assert model.weights == (0.0, 0.0, 0.0, 0.0)


def test_rivals_weigh_by_how_near_they_are_beside_the_answers_own_entries():
    alone = surroundings("a", [("a", 0.9)], refuted=0)
    assert alone == Surroundings()
    far = surroundings("a", [("a", 0.9), ("b", 0.6)], refuted=0)
    near = surroundings("a", [("a", 0.9), ("b", 0.88)], refuted=0)
    outnumbered = surroundings("a", [("a", 0.9), ("a", 0.88), ("b", 0.88)], refuted=2)
    assert 0 < far.rivalry < outnumbered.rivalry < near.rivalry
    assert (outnumbered.agreeing, outnumbered.second, outnumbered.refuted) == (2, 0.88, 2)
    refused_first = surroundings("a", [("b", 0.95), ("a", 0.9)], refuted=0)
    assert refused_first.rivalry > near.rivalry


def test_an_answer_that_was_wrong_before_is_known_by_it_after_a_restart_too():
    judgements = [Judgement(similarity=0.9, is_wrong=True, document_id="d")] * 3
    judgements += [Judgement(similarity=0.9, is_wrong=False, document_id="e")]
    evidence = evidence_of(judgements)
    assert (evidence.refuted("d"), evidence.refuted("e")) == (3, 0)
    restarted = evidence_of([])
    restarted.restore([("c", judgement) for judgement in judgements])
    assert restarted.refuted("d") == 3


def test_a_restart_fits_once_whatever_is_remembered(monkeypatch):
    fits = []

    def counted(*columns):
        fits.append(len(columns[0]))
        return fit_risk(*columns)

    monkeypatch.setattr("cluster.policy.semantic_cache.evidence.fit_risk", counted)
    restarted = evidence_of([])
    restarted.restore([("c", judgement) for judgement in judged_stream(600, 0.0, 1)])
    assert fits == [600]
    assert restarted.threshold("c") < 0.9


def test_what_saves_least_for_its_bytes_goes_first_and_unused_things_age():
    worths = Worths()
    worths.set("cheap", uses=1, saved_cost=1.0, size_bytes=1000, priority=1.0)
    worths.set("dear", uses=1, saved_cost=9.0, size_bytes=1000, priority=1.0)
    worths.set("popular", uses=5, saved_cost=1.0, size_bytes=1000, priority=1.0)
    assert worths.evict() == "cheap"
    for number in range(12):
        worths.set(f"new {number}", uses=1, saved_cost=2.0, size_bytes=1000, priority=1.0)
        worths.evict()
    worths.set("later", uses=6, saved_cost=1.0, size_bytes=1000, priority=1.0)
    left = [worths.evict() for _ in range(len(worths))]
    assert "popular" not in left or left.index("popular") < left.index("later")
