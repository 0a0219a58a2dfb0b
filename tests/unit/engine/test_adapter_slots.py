"""Layers that no adapter changes are left alone, and nothing is left behind in a slot."""

from types import SimpleNamespace

import numpy as np
import pytest

from deployments.engine.adapter_slots import QuickSlots

RANK, WIDTH = 4, 6


class Layer:
    """One layer by vLLM's rules: `set_lora` begins with `reset_lora`, and writes what the adapter has."""

    def __init__(self, slots: int) -> None:
        self.lora_b_stacked = (np.full((slots, WIDTH, RANK), 7.0),)  # whatever was there before
        self.zeroed = 0

    def reset_lora(self, index: int) -> None:
        self.zeroed += 1
        self.lora_b_stacked[0][index] = 0.0

    def set_lora(self, index: int, _a: object, lora_b: list[np.ndarray | None]) -> None:
        self.reset_lora(index)
        (matrix,) = lora_b
        if matrix is None:
            return
        if matrix.shape[1] > RANK:
            raise ValueError("does not fit")
        self.lora_b_stacked[0][index][:, : matrix.shape[1]] = matrix


class Kernels:
    def __init__(self) -> None:
        self.computed = 0

    def add_lora_linear(self, *_: object) -> None:
        self.computed += 1

    add_lora_logits = add_lora_linear

    def add_lora_embedding(self, *_: object) -> None:
        self.computed += 1


def matrix(rank: int, value: float = 1.0) -> list[np.ndarray | None]:
    return [np.full((WIDTH, rank), value)]


@pytest.fixture
def model() -> SimpleNamespace:
    layer, kernels = Layer(2), Kernels()
    manager = SimpleNamespace(
        lora_index_to_id=[None, None],
        modules={"a": layer, "the same layer": layer},
        punica_wrapper_mapping={"language": kernels},
    )
    QuickSlots(manager, on_cpu=True)
    return SimpleNamespace(layer=layer, kernels=kernels, manager=manager)


def computed(model: SimpleNamespace) -> bool:
    """Whether a step now computes the layer's slots."""
    before = model.kernels.computed
    model.kernels.add_lora_linear(None, None, None, model.layer.lora_b_stacked)
    return model.kernels.computed > before


def test_free_slots_are_zeroed_once_and_not_again(model):
    assert not model.layer.lora_b_stacked[0].any()
    model.layer.reset_lora(0)
    assert model.layer.zeroed == 2


def test_a_layer_is_computed_while_a_slot_of_it_holds_something(model):
    assert not computed(model)
    model.layer.set_lora(1, None, matrix(RANK))
    assert computed(model)
    model.layer.reset_lora(1)
    assert not computed(model)


def test_matrices_of_the_same_shapes_are_overwritten_without_zeroing(model):
    model.layer.set_lora(0, None, matrix(3, 1.0))
    zeroed = model.layer.zeroed
    model.layer.set_lora(0, None, matrix(3, 2.0))
    assert model.layer.zeroed == zeroed
    assert (model.layer.lora_b_stacked[0][0][:, :3] == 2.0).all()


@pytest.mark.parametrize("smaller", [matrix(2), [None]])
def test_nothing_is_left_of_a_larger_adapter(model, smaller):
    model.layer.set_lora(0, None, matrix(RANK))
    model.layer.set_lora(0, None, smaller)
    left = model.layer.lora_b_stacked[0][0]
    assert not left[:, 2:].any()
    assert left.any() == (smaller[0] is not None)


def test_after_a_write_that_failed_the_slot_is_zeroed(model):
    model.layer.set_lora(0, None, matrix(RANK))
    with pytest.raises(ValueError, match="does not fit"):
        model.layer.set_lora(0, None, matrix(RANK + 1))
    assert computed(model)
    model.layer.reset_lora(0)
    assert not model.layer.lora_b_stacked[0].any()
    assert not computed(model)


def test_a_slot_in_use_is_taken_for_written():
    layer = Layer(2)
    manager = SimpleNamespace(
        lora_index_to_id=[5, None], modules={"a": layer}, punica_wrapper_mapping={"language": Kernels()}
    )
    QuickSlots(manager, on_cpu=True)
    assert layer.lora_b_stacked[0][0].all()
    assert computed(SimpleNamespace(layer=layer, kernels=manager.punica_wrapper_mapping["language"]))


def test_steps_that_were_recorded_are_left_alone():
    layer, kernels = Layer(1), Kernels()
    manager = SimpleNamespace(
        lora_index_to_id=[None], modules={"a": layer}, punica_wrapper_mapping={"language": kernels}
    )
    QuickSlots(manager, on_cpu=False)
    assert computed(SimpleNamespace(layer=layer, kernels=kernels))
