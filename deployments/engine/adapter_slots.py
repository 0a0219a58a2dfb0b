"""Runs inside vLLM's worker process: leaves the layers alone that no adapter in a slot changes.

Adapters are often in a few layers only, or in a few projections of each. vLLM zeroes a slot in every layer of
the model and then copies the adapter's matrices: three of the four milliseconds that the load of a small
adapter stops a CPU engine for. And it adds every layer's slots to every token, the empty ones too, which on a
CPU takes as long as the model itself. What was written into a slot last is known here. So layers that are
zero already, or will be overwritten as far as they were written, are not zeroed; and on a CPU, where Python
runs every step anew, layers whose slots are all zero are not computed. Results are the same.
"""

from collections.abc import Sequence
from typing import Any

Shapes = tuple[Any, ...] | None

_ZERO: Shapes = ()
_SLOTS_ARGUMENT = {"add_lora_linear": 3, "add_lora_logits": 3, "add_lora_embedding": 2}
"""Of vLLM's kernels: which argument is a layer's slots."""


class QuickSlots:
    """The slots of every layer of a model."""

    def __init__(self, manager: Any, *, on_cpu: bool) -> None:
        """Take over a vLLM `LoRAModelManager`.

        Args:
            manager: of the worker.
            on_cpu: steps run eagerly, and kernels change their outputs in place.
        """
        self._untouched: set[int] = set()
        """Ids of the tensors of layers that hold nothing but zeros."""
        for layer in {id(layer): layer for layer in manager.modules.values()}.values():
            _QuickLayer(layer, manager.lora_index_to_id, self._untouched)
        if on_cpu:
            for kernels in manager.punica_wrapper_mapping.values():
                for name, place in _SLOTS_ARGUMENT.items():
                    setattr(kernels, name, self._sparing(getattr(kernels, name), place))

    def _sparing(self, kernel: Any, place: int) -> Any:
        def compute(*arguments: Any, **named: Any) -> Any:
            if id(arguments[place]) in self._untouched:
                return None
            return kernel(*arguments, **named)

        return compute


class _QuickLayer:
    """The slots of one layer; `reset_lora` and `set_lora` of the layer come here."""

    def __init__(self, layer: Any, adapters: Sequence[int | None], untouched: set[int]) -> None:
        self._reset, self._set = layer.reset_lora, layer.set_lora
        self._tensors = id(layer.lora_b_stacked)
        self._untouched = untouched
        self._written: list[Shapes] = [None] * len(adapters)
        """By slot: shapes of what was written last. None: it may hold anything."""
        layer.reset_lora, layer.set_lora = self.reset, self.set
        for index, adapter in enumerate(adapters):
            if adapter is None:
                self.reset(index)

    def reset(self, index: int) -> None:
        """Zero a slot."""
        if self._written[index] != _ZERO:
            self._reset(index)
            self._note(index, _ZERO)

    def set(self, index: int, *weights: Any) -> None:
        """Write a slot; the layer's own way begins with `reset`."""
        shapes = _shapes(weights)
        # the same shapes: all that is there is about to be overwritten, which is as good as zero
        self._written[index] = _ZERO if self._written[index] == shapes else self._written[index]
        try:
            self._set(index, *weights)
        except BaseException:
            self._note(index, None)
            raise
        self._note(index, shapes)

    def _note(self, index: int, shapes: Shapes) -> None:
        self._written[index] = shapes
        if all(written == _ZERO for written in self._written):
            self._untouched.add(self._tensors)
        else:
            self._untouched.discard(self._tensors)


def _shapes(weights: Any) -> Shapes:
    """Of tensors in lists in lists."""
    if weights is None:
        return None
    if isinstance(weights, list | tuple):
        return tuple(_shapes(each) for each in weights)
    return tuple(weights.shape)
