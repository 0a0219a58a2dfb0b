"""Runs inside vLLM's worker process: reads adapters while the model computes, and says what loads cost.

vLLM reads an adapter's files, converts them and copies them into a slot in one go, between two steps, and
everybody waits. Here a thread reads, checks and converts ahead of time; what is left for the load is the copy
into a slot (`adapter_slots.py`). A copy stays until it is given up, so an adapter that left its slot is not
read again.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any

from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.request import LoRARequest

from deployments.engine.adapter_slots import QuickSlots


class AdapterCopies:
    """Methods that vLLM adds to its worker (`--worker-extension-cls`), for `collective_rpc`."""

    def adapter_quicken(self) -> None:
        """Leave layers alone that no adapter in a slot changes; until then the engine is as vLLM ships it."""
        _shelf(self).quicken()

    def adapter_prepare(self, name: str, number: int, path: str) -> None:
        """Begin to read an adapter into this process's memory."""
        _shelf(self).prepare(LoRARequest(name, number, path))

    def adapter_prepared(self, number: int) -> str | None:
        """None while it is being read, then what went wrong; empty if nothing did."""
        return _shelf(self).prepared(number)

    def adapter_forget(self, number: int) -> None:
        """Give up the copy; in a slot it stays."""
        _shelf(self).forget(number)

    def adapter_swap(self, leaving: list[int], name: str, number: int, path: str) -> dict[str, Any]:
        """Take adapters out and put one in, in one call between two steps; then as `adapter_report`."""
        return _shelf(self).swap(leaving, LoRARequest(name, number, path))

    def adapter_report(self) -> dict[str, Any]:
        """Which adapters are in the engine, and what loads have cost since it was first asked."""
        return _shelf(self).report()


class _Copies:
    """Stands between vLLM's LoRA manager and its files."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._manager = runner.lora_manager
        slots = self._manager._adapter_manager  # noqa: SLF001 - the worker's manager has no name for it
        self._read_files = self._manager._load_adapter  # noqa: SLF001 - vLLM reads files nowhere else
        self._add = self._manager.add_adapter
        self._merge = slots._create_merged_loras_inplace  # noqa: SLF001 - vLLM does it with every load
        self._models: dict[int, Any] = {}
        self._errors: dict[int, str] = {}
        self._loads, self._load_s, self._stall_s, self._stream_s = 0, 0.0, 0.0, 0.0
        # An expert's matrices are cut to this worker's share when they are added: not twice.
        self._keeps = not any("MoE" in type(module).__name__ for module in slots.modules.values())
        self._sizes = self._layer_sizes(slots) if self._keeps else {}
        self._quick: QuickSlots | None = None
        self._slots = slots
        self._manager._load_adapter = self._given  # noqa: SLF001
        self._manager.add_adapter = self._timed
        slots._create_merged_loras_inplace = self._merged_once  # noqa: SLF001

    @staticmethod
    def _layer_sizes(slots: Any) -> dict[str, tuple[int, int | None]]:
        """What every projection of the model takes in and gives; none that a worker has only a share of."""
        sizes: dict[str, tuple[int, int | None]] = {}
        for name, module in slots.modules.items():
            if getattr(module, "tp_size", 1) != 1 or not isinstance(module, BaseLinearLayerWithLoRA):
                continue
            inputs = int(module.lora_a_stacked[0].shape[-1])
            outputs: list[int | None] = [int(stacked.shape[-2]) for stacked in module.lora_b_stacked]
            parts = slots.packed_modules.get(name, [name])
            if len(parts) != len(outputs):
                outputs = [None] * len(parts)
            sizes |= {part: (inputs, given) for part, given in zip(parts, outputs, strict=True)}
        return sizes

    def _read(self, request: LoRARequest) -> Any:
        """An adapter from its files. One for a smaller model is refused: vLLM would take it, and be wrong."""
        model = self._read_files(request)
        for name, weights in model.loras.items():
            inputs, outputs = self._sizes.get(name, (None, None))
            takes, gives = int(weights.lora_a.shape[-1]), int(weights.lora_b.shape[0])
            if inputs not in {None, takes}:
                raise ValueError(f"{name} is made for {takes} inputs, and the model's has {inputs}")
            if outputs not in {None, gives}:
                raise ValueError(f"{name} is made for {gives} outputs, and the model's has {outputs}")
        return model

    def quicken(self) -> None:
        """See `AdapterCopies`."""
        if self._quick is None:
            on_cpu = self._manager.device.type == "cpu" and self._runner.model_config.enforce_eager
            self._quick = QuickSlots(self._slots, on_cpu=on_cpu)

    def prepare(self, request: LoRARequest) -> None:
        """Read in a thread."""
        if request.lora_int_id not in self._models:
            self._errors.pop(request.lora_int_id, None)
            threading.Thread(target=self._prepare, args=(request,), daemon=True).start()

    def _prepare(self, request: LoRARequest) -> None:
        try:
            model = self._read(request)
            if self._keeps:
                self._merge(model)
            self._models[request.lora_int_id] = model
            self._errors[request.lora_int_id] = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, the asker is told
            self._errors[request.lora_int_id] = f"{type(error).__name__}: {error}"

    def prepared(self, number: int) -> str | None:
        """See `AdapterCopies`."""
        return self._errors.get(number)

    def forget(self, number: int) -> None:
        """See `AdapterCopies`."""
        self._models.pop(number, None)
        self._errors.pop(number, None)

    def report(self) -> dict[str, Any]:
        """See `AdapterCopies`."""
        return {
            "held": sorted(self._manager.list_adapters()),
            "loads": self._loads,
            "load_s": self._load_s,
            "stall_s": self._stall_s,
            "stream_stall_s": self._stream_s,
        }

    def _given(self, request: LoRARequest) -> Any:
        """The copy, if there is one."""
        number = request.lora_int_id
        found = self._models.get(number) if self._keeps else self._models.pop(number, None)
        return found if found is not None else self._read(request)

    def _merged_once(self, model: Any) -> None:
        """What `_prepare` has done already is not done in the load."""
        if not self._keeps or self._models.get(model.id) is not model:
            self._merge(model)

    def swap(self, leaving: Sequence[int], request: LoRARequest) -> dict[str, Any]:
        """See `AdapterCopies`."""
        self._timed(request, leaving)
        return self.report()

    def _timed(self, request: LoRARequest, leaving: Sequence[int] = ()) -> Any:
        """Called for every adapter of every step; it costs something only for a new one."""
        if not leaving and request.lora_int_id in self._slots.lora_index_to_id:
            return self._add(request)
        began_s = time.perf_counter()
        try:
            for number in leaving:
                self._manager.remove_adapter(number)
            return self._add(request)
        finally:
            spent_s = time.perf_counter() - began_s
            others = self._others(request.lora_int_id)
            self._loads += 1
            self._load_s += spent_s
            self._stall_s += spent_s if others else 0.0
            self._stream_s += spent_s * others

    def _others(self, number: int) -> int:
        """Requests in the batch that have no use for the adapter and wait for it all the same."""
        batch = getattr(self._runner, "input_batch", None)
        if batch is None:
            return 0
        return int((batch.request_lora_mapping[: batch.num_reqs] != number).sum())


def _shelf(worker: Any) -> _Copies:
    """The worker's copies; vLLM gives an extension no constructor."""
    found = getattr(worker, "_adapter_copies", None)
    if found is None:
        found = worker._adapter_copies = _Copies(worker.model_runner)  # noqa: SLF001
    assert isinstance(found, _Copies)  # noqa: S101 - nobody else sets it
    return found
