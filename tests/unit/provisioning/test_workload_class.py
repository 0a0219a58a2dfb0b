"""Bands of prompt lengths and their names."""

import pytest

from cluster.policy.workload_class import (
    class_lower_tokens,
    class_upper_tokens,
    workload_class,
    workload_classes,
)

BANDS = (512, 4096)


@pytest.mark.parametrize(
    ("prompt_tokens", "name"),
    [(0, "0-512"), (512, "0-512"), (513, "513-4096"), (4096, "513-4096"), (4097, "4097-"), (10**9, "4097-")],
)
def test_a_bound_belongs_to_the_class_below_it(prompt_tokens, name):
    assert workload_class(prompt_tokens, BANDS) == name


def test_the_classes_are_named_shortest_first():
    assert workload_classes(BANDS) == ("0-512", "513-4096", "4097-")


def test_without_bands_there_is_one_class():
    assert workload_classes(()) == ("0-",) == (workload_class(77, ()),)


def test_a_name_says_its_bounds():
    assert [(class_lower_tokens(name), class_upper_tokens(name)) for name in workload_classes(BANDS)] == [
        (0, 512),
        (513, 4096),
        (4097, None),
    ]


@pytest.mark.parametrize("name", ["", "512", "-512", "a-b", "0-512-1", "1.5-2"])
def test_what_is_no_class_is_refused_by_name(name):
    with pytest.raises(ValueError, match="is not the name of a workload class"):
        class_upper_tokens(name)
