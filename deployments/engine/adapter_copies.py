"""Runs inside vLLM's worker process: reads adapters while the model computes, and says what loads cost.

vLLM reads an adapter's files, converts them and copies them into a slot in one go, between two steps, and
everybody waits. Here a thread reads and converts ahead of time; what is left for the load is the copy into a
slot. A copy stays until it is given up, so an adapter that left its slot is not read again.
"""

import threading
import time
from typing import Any

from vllm.lora.request import LoRARequest


class AdapterCopies:
    """Methods that vLLM adds to its worker (`--worker-extension-cls`), for `collective_rpc`."""

    def adapter_prepare(self, name: str, number: int, path: str) -> None:
        """Begin to read an adapter into this process's memory."""
        _shelf(self).prepare(LoRARequest(name, number, path))

    def adapter_prepared(self, number: int) -> str | None:
        """None while it is being read, then what went wrong; empty if nothing did."""
        return _shelf(self).prepared(number)

    def adapter_forget(self, number: int) -> None:
        """Give up the copy; in a slot it stays."""
        _shelf(self).forget(number)

    def adapter_report(self) -> dict[str, Any]:
        """Which adapters are in the engine, and what loads have cost since it was first asked."""
        return _shelf(self).report()


class _Copies:
    """Stands between vLLM's LoRA manager and its files."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._manager = runner.lora_manager
        self._read_files = self._manager._load_adapter  # noqa: SLF001 - vLLM reads files nowhere else
        self._add = self._manager.add_adapter
        self._models: dict[int, Any] = {}
        self._errors: dict[int, str] = {}
        self._loads, self._load_s, self._stall_s, self._stream_s = 0, 0.0, 0.0, 0.0
        # An expert's matrices are cut to this worker's share when they are added: not twice.
        modules = self._manager._adapter_manager.modules  # noqa: SLF001
        self._keeps = not any("MoE" in type(module).__name__ for module in modules.values())
        self._inputs = self._input_sizes(modules) if self._keeps else {}
        self._manager._load_adapter = self._given  # noqa: SLF001
        self._manager.add_adapter = self._timed

    def _input_sizes(self, modules: dict[str, Any]) -> dict[str, int]:
        """What every projection of the whole model takes in; empty where a worker has only a share of it."""
        packed = self._manager._adapter_manager.packed_modules  # noqa: SLF001
        sizes: dict[str, int] = {}
        for name, module in modules.items():
            stacked = getattr(module, "lora_a_stacked", None)
            if getattr(module, "tp_size", 1) == 1 and stacked is not None:
                sizes |= dict.fromkeys(packed.get(name, [name]), int(stacked[0].shape[-1]))
        return sizes

    def _read(self, request: LoRARequest) -> Any:
        """An adapter from its files. One for a smaller model is refused: vLLM would take it, and be wrong."""
        model = self._read_files(request)
        for name, weights in model.loras.items():
            wanted, found = self._inputs.get(name), weights.lora_a.shape[-1]
            if wanted not in {None, found}:
                raise ValueError(f"{name} is made for {found} inputs, and the model's has {wanted}")
        return model

    def prepare(self, request: LoRARequest) -> None:
        """Read in a thread."""
        if request.lora_int_id not in self._models:
            self._errors.pop(request.lora_int_id, None)
            threading.Thread(target=self._prepare, args=(request,), daemon=True).start()

    def _prepare(self, request: LoRARequest) -> None:
        try:
            self._models[request.lora_int_id] = self._read(request)
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

    def _timed(self, request: LoRARequest) -> Any:
        """Called for every adapter of every step; it costs something only for a new one."""
        if request.lora_int_id in self._manager.list_adapters():
            return self._add(request)
        began_s = time.perf_counter()
        try:
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
