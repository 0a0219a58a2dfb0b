"""The data of a recipe: seeded, right, and never what tests ask. The training itself is not run."""

import itertools
import re

import pytest

from deployments.engine.recipes import RECIPES, Question, arithmetic_questions, is_right


def first(count, **options):
    return list(itertools.islice(arithmetic_questions(**options), count))


def numbers(question):
    return tuple(map(int, re.findall(r"\d+", question.text)))


def test_the_same_seed_gives_the_same_questions():
    assert first(50, seed=3, held_out=False) == first(50, seed=3, held_out=False)
    assert first(50, seed=3, held_out=False) != first(50, seed=4, held_out=False)


def test_answers_are_right():
    assert all(sum(numbers(q)) == q.answer for q in first(500, seed=1, held_out=False))


def test_training_never_sees_a_held_out_pair():
    trained = {numbers(q) for q in first(5000, seed=1, held_out=False)}
    held_out = {numbers(q) for q in first(1500, seed=2, held_out=True)}
    assert not trained & held_out
    assert len(held_out) > 300


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("55", True),
        ("20 + 35 = 55.", True),
        ("The answer is 55", True),
        ("55 is not 54", False),
        ("5,5", True),
        ("", False),
        ("fifty-five", False),
        ("-55", False),
    ],
)
def test_the_last_number_is_the_answer(text, right):
    assert is_right(Question("Add 20 and 35.", 55), text) is right


def test_recipes_start_from_a_package():
    assert all(recipe.base.startswith("package:") for recipe in RECIPES.values())
