"""Choices whose judgement is late narrow the doubt, and leave nothing behind when it comes or never comes."""

import numpy as np
import pytest

from cluster.policy.paging.statistics import Statistics

D = 3
X = np.array([1.0, 0.5, 0.0])
Y = np.array([1.0, 0.0, 0.7])


@pytest.fixture
def found():
    made = Statistics(dimension=D, regularisation=1.0, inherited=0.2, source="n")
    made.catalogue_changed(("a", "b"), np.full(2, 0.5), np.full(2, -1), np.zeros(2, dtype=bool))
    return made


def width(found, x=X, row=0):
    return found.scored(x).width[row]


def test_a_choice_narrows_the_doubt_and_leaves_the_mean(found):
    before = width(found)
    found.chosen(0, X)
    assert width(found) < before
    assert width(found, row=1) == before
    assert found.scored(X).mean[0] == 0.5
    assert found.estimates().scored(X).width[0] == width(found)


def test_its_judgement_takes_its_place(found):
    found.chosen(0, X)
    narrowed = width(found)
    found.observe(0, X.astype(np.float32).astype(float), 0.9)  # as it comes back from a router
    assert width(found) == pytest.approx(narrowed)
    plain = Statistics(dimension=D, regularisation=1.0, inherited=0.2, source="m")
    plain.catalogue_changed(("a", "b"), np.full(2, 0.5), np.full(2, -1), np.zeros(2, dtype=bool))
    plain.observe(0, X, 0.9)
    assert np.allclose(found.estimates().inverse, plain.estimates().inverse)
    assert np.allclose(found.scored(X).mean, plain.scored(X).mean)


def test_the_same_request_may_wait_several_times(found):
    for _ in range(3):
        found.chosen(0, X)
    for _ in range(3):
        found.observe(0, X, 0.9)
    assert width(found) == pytest.approx(np.sqrt(X @ np.linalg.inv(np.eye(D) + 3 * np.outer(X, X)) @ X))


def test_what_is_never_judged_is_taken_back_when_later_ones_were(found):
    before = width(found)
    found.chosen(0, X)
    for _ in range(100):
        found.chosen(1, Y)
        found.observe(1, Y, 0.5)
    assert width(found) == pytest.approx(before)


def test_without_any_judgement_the_oldest_are_taken_back(found):
    found.chosen(0, X)
    for _ in range(600):
        found.chosen(1, Y)
    assert width(found) == pytest.approx(np.sqrt(X @ X))


def test_choices_count_by_the_share_that_is_judged(found):
    for number, y in enumerate(np.random.default_rng(0).normal(size=(400, D))):
        found.chosen(1, y)
        if number % 5 == 0:
            found.observe(1, y, 0.5)
    before = width(found) ** -2
    found.chosen(0, X)
    assert width(found) ** -2 - before == pytest.approx(0.2, abs=0.02)


def test_they_count_after_news_from_other_nodes_as_well(found):
    other = Statistics(dimension=D, regularisation=1.0, inherited=0.2, source="m")
    other.catalogue_changed(("a", "b"), np.full(2, 0.5), np.full(2, -1), np.zeros(2, dtype=bool))
    other.observe(0, Y, 0.9)
    found.chosen(0, X)
    found.merge(other.contributions())
    both = np.eye(D) + np.outer(X, X) + np.outer(Y, Y)
    assert width(found) == pytest.approx(np.sqrt(X @ np.linalg.inv(both) @ X))
