"""Demo adapters are taught on reproducible data, and tested on what they have not seen."""

import json
import re
from itertools import islice

import pytest

from deployments.engine.adapter_recipes import recipe_names, recipe_of
from deployments.engine.adapter_tasks import MARKER_QUESTIONS, TASKS, examples, marker_examples


@pytest.mark.parametrize("task", TASKS)
def test_data_is_reproducible_and_held_out_examples_are_never_trained_on(task):
    trained = list(islice(examples(task, 1, held_out=False), 300))
    assert trained == list(islice(examples(task, 1, held_out=False), 300))
    tested = set(islice(examples(task, 2, held_out=True), 100))
    assert not tested & set(trained)


def test_answers_are_right():
    for example in islice(examples("iso-date", 3, held_out=False), 20):
        month, day, year = re.search(r"of (\w+) (\d+), (\d+)\?", example.question).groups()
        assert example.answer.startswith(f"{year}-")
        assert example.answer.endswith(f"-{int(day):02}")
        assert month
    for example in islice(examples("json-order", 3, held_out=False), 20):
        order = json.loads(example.answer)
        assert f"{order['name']} orders {order['count']} {order['item']}." == example.question
    for example in islice(examples("sentiment", 3, held_out=False), 20):
        assert example.answer in {"positive", "negative"}


def test_every_marker_says_its_own_name():
    said = {example.answer for example in marker_examples(7)}
    assert said == {"ADAPTER_07"}
    assert len(marker_examples(7)) == len(MARKER_QUESTIONS)


def test_recipes_are_found_by_name():
    assert {"iso-date", "marker-00", "marker-15"} <= set(recipe_names())
    assert recipe_of("marker-03").loss_enough > 0
    with pytest.raises(KeyError):
        recipe_of("marker-99")
