"""What is known of adapters: rank-one updates, merging, inheritance, the disk."""

import numpy as np
import pytest

from cluster.policy.paging.contributions import Contributions
from cluster.policy.paging.statistics import Statistics

D = 5


def statistics(keys=("a", "b", "c"), source="n1", prior=0.5):
    found = Statistics(dimension=D, regularisation=2.0, inherited=0.2, source=source)
    n = len(keys)
    found.catalogue_changed(tuple(keys), np.full(n, prior), np.full(n, -1), np.zeros(n, dtype=bool))
    return found


def teach(found, seed, answers=200):
    chance = np.random.default_rng(seed)
    for _ in range(answers):
        found.observe(
            int(chance.integers(3)), chance.normal(size=D) / 3, chance.random(), chance.random() + 0.1
        )
    return found


def test_rank_one_updates_equal_the_inverse_and_the_solution_computed_at_once():
    found = statistics()
    chance = np.random.default_rng(1)
    gram, response = 2.0 * np.eye(D), np.zeros(D)
    for _ in range(300):
        x, utility, weight = chance.normal(size=D), chance.random(), chance.random() + 0.1
        found.observe(1, x, utility, weight)
        gram += weight * np.outer(x, x)
        response += weight * (utility - 0.5) * x
    estimates = found.estimates()
    assert np.allclose(estimates.inverse[1], np.linalg.inv(gram), atol=1e-10)
    assert np.allclose(estimates.theta[1], np.linalg.solve(gram, response), atol=1e-10)
    x = chance.normal(size=D)
    scored = found.scored(x)
    assert scored.mean[1] == pytest.approx(0.5 + np.linalg.solve(gram, response) @ x)
    assert scored.width[1] == pytest.approx(np.sqrt(x @ np.linalg.inv(gram) @ x))
    assert scored.mean[0] == pytest.approx(0.5)
    assert scored.width[0] == pytest.approx(np.sqrt(x @ x / 2.0))


def test_rounding_errors_do_not_add_up():
    found = statistics()
    x = np.array([1.0, 1e-4, 0, 0, 0])
    for _ in range(5000):
        found.observe(0, x, 0.9)
    gram = 2.0 * np.eye(D) + 5000 * np.outer(x, x)
    assert np.allclose(found.estimates().inverse[0] @ gram, np.eye(D), atol=1e-8)


def test_many_contexts_are_scored_as_single_ones():
    found = teach(statistics(), 3)
    contexts = np.random.default_rng(0).normal(size=(300, D))
    mean, width = found.scored_many(contexts.astype(np.float32))
    for row in (0, 127, 128, 299):
        one = found.scored(contexts[row])
        assert np.allclose(mean[row], one.mean, atol=1e-5)
        assert np.allclose(width[row], one.width, atol=1e-4)


def test_merging_gives_what_one_node_with_all_answers_knows():
    one, two, both = (statistics(source=name) for name in ("n1", "n2", "n3"))
    chance = np.random.default_rng(5)
    for _ in range(200):
        row, x, utility = int(chance.integers(3)), chance.normal(size=D), chance.random()
        (one if chance.random() < 0.5 else two).observe(row, x, utility)
        both.observe(row, x, utility)
    one.merge(two.contributions())
    two.merge(one.contributions())
    for found in (one, two):
        assert np.allclose(found.estimates().theta, both.estimates().theta)
        assert np.allclose(found.estimates().inverse, both.estimates().inverse)
        assert np.allclose(found.count, both.count)


def test_only_what_is_new_since_is_told_and_a_newer_sum_replaces_the_older():
    one, two = statistics(), statistics(source="n2")
    one.observe(0, np.ones(D), 1.0)
    two.merge(one.contributions())
    told = one.version
    one.observe(2, np.ones(D), 0.0)
    one.observe(0, np.ones(D), 1.0)
    news = one.contributions(told)
    assert {found.adapter for found in news} == {"a", "c"}
    assert one.contributions(one.version) == ()
    two.merge(news)
    assert two.count.tolist() == [2, 0, 1]


def test_a_node_that_lost_its_state_gets_back_what_it_told():
    before = teach(statistics(), 9)
    told = before.contributions()
    after = statistics()
    after.merge(told)
    assert np.allclose(after.estimates().theta, before.estimates().theta)
    assert after.version == before.version
    after.observe(0, np.ones(D), 1.0)
    assert after.contributions(before.version)[0].count == pytest.approx(before.count[0] + 1)


def test_a_contribution_of_another_dimension_is_refused():
    other = Statistics(dimension=3, regularisation=1.0, inherited=0.2, source="n2")
    other.catalogue_changed(("a",), np.array([0.5]), np.array([-1]), np.array([False]))
    other.observe(0, np.ones(3), 1.0)
    with pytest.raises(ValueError, match="vectors of 3, not 5"):
        statistics().merge(other.contributions())


def test_new_weights_inherit_the_mean_with_a_wider_doubt_and_tell_nobody():
    found = teach(statistics(), 2, answers=600)
    x = np.ones(D) / 2
    old = found.scored(x)
    found.catalogue_changed(
        ("a", "b2", "c"), np.full(3, 0.5), np.array([0, 1, 2]), np.array([False, True, False])
    )
    new = found.scored(x)
    assert new.mean[0] == pytest.approx(old.mean[0])
    # the mean moves a little towards the prior, because regularisation weighs more
    assert new.mean[1] == pytest.approx(old.mean[1], abs=0.05)
    assert 1.5 * old.width[1] < new.width[1] < np.sqrt(5) * old.width[1] * 1.01
    assert {told.adapter for told in found.contributions()} == {"a", "c"}
    assert found.count[1] == 0


def test_removed_adapters_are_forgotten_and_others_stay():
    found = teach(statistics(), 4)
    kept = found.estimates().theta[2].copy()
    found.merge(teach(statistics(source="n2"), 5).contributions())
    merged = found.estimates().theta[2].copy()
    found.catalogue_changed(("c", "d"), np.full(2, 0.5), np.array([2, -1]), np.zeros(2, dtype=bool))
    assert np.allclose(found.estimates().theta[0], merged)
    assert not np.allclose(merged, kept)
    assert found.estimates().theta[1].tolist() == [0.0] * D
    assert {told.adapter for told in found.others.all()} == {"c"}


def test_what_was_saved_is_what_is_restored():
    found = teach(statistics(), 6)
    again = statistics()
    again.restore({name: np.array(value) for name, value in found.arrays().items()})
    assert np.allclose(again.estimates().theta, found.estimates().theta)
    assert np.allclose(again.estimates().inverse, found.estimates().inverse)
    assert [c.version for c in again.contributions()] == [c.version for c in found.contributions()]
    with pytest.raises(ValueError, match="shape"):
        statistics(keys=("a", "b")).restore(found.arrays())


def test_contributions_of_unknown_adapters_are_left_out_by_nodes_and_kept_by_collections():
    told = teach(statistics(), 7).contributions()
    node = statistics(keys=("a", "x"), source="n2")
    node.merge(told)
    assert node.count[1] == 0
    assert {found.adapter for found in node.others.all()} == {"a"}
    everything = Contributions()
    assert everything.merge(told) == {"a", "b", "c"}
    assert everything.merge(told) == set()
