"""GPUs through NVML, with NVIDIA's own binding.

Each GPU has a total-energy counter (Volta and later), which misses nothing between two readings. Where it is
not supported, power is read several times a second and integrated. A reading that fails leaves the others
alone, is told with its reason, and is tried again: drivers are reloaded and GPUs fall off the bus while a
node lives on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pynvml

from cluster.entities.energy import EnergyReading, Meter

_RETRY_S = 10.0
"""Pause before NVML is initialised anew after it failed as a whole."""
_ERROR_CODES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no_library",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "no_driver",
    pynvml.NVML_ERROR_NO_PERMISSION: "no_permission",
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not_supported",
    pynvml.NVML_ERROR_GPU_IS_LOST: "gpu_is_lost",
    pynvml.NVML_ERROR_UNINITIALIZED: "uninitialised",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "not_supported",
    pynvml.NVML_ERROR_NOT_FOUND: "gpu_is_lost",
}
_GONE = frozenset({pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
"""NVML as a whole does not work any more."""
_LACKING = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})


@dataclass(slots=True)
class _Gpu:
    uuid: str
    index: int
    counts: bool = True
    """Whether its energy counter is supported."""
    counter_mj: int | None = None
    """Last reading of the counter."""
    power_w: float | None = None
    """Last reading of the power."""
    energy_j: float = 0.0
    read_at_s: float | None = None
    told_j: float = 0.0
    told_at_s: float | None = None
    lost: bool = False


class NvmlMeter:
    """All GPUs of this node. One thread calls `sample`, often; another one may call `readings`
    and `names` meanwhile, once a window.
    """

    def __init__(self, clock: Callable[[], float], *, use_counter: bool = True) -> None:
        """Prepare; NVML is opened by the first `sample`.

        Args:
            clock: monotonic seconds, of the readings' `observed_at_s` as well.
            use_counter: False integrates power even where there is a counter, to check one by the other.
        """
        self._clock = clock
        self._use_counter = use_counter
        self._open = False
        self._retry_at_s = 0.0
        self._gpus: dict[str, _Gpu] = {}
        self.errors: dict[str, str] = {}
        """What does not work now: `nvml` or a GPU's UUID, and why."""

    def sample(self) -> None:
        """Read every GPU once. Never raises; see `errors`."""
        now_s = self._clock()
        if not self._open and not self._opened(now_s):
            return
        for gpu in self._gpus.values():
            try:
                self._read(gpu, now_s)
            except pynvml.NVMLError as error:
                self._failed(gpu, error, now_s)
                if not self._open:
                    return

    def readings(self) -> tuple[EnergyReading, ...]:
        """What each GPU has used so far; those that cannot be read now are left out."""
        found = []
        for gpu in list(self._gpus.values()):
            if gpu.lost or gpu.read_at_s is None:
                continue
            span_s = gpu.read_at_s - gpu.told_at_s if gpu.told_at_s is not None else 0.0
            found.append(
                EnergyReading(
                    device=gpu.uuid,
                    meter=Meter.NVML_COUNTER if gpu.counts else Meter.NVML_POWER,
                    energy_j=gpu.energy_j,
                    power_w=(gpu.energy_j - gpu.told_j) / span_s if span_s > 0 else None,
                    observed_at_s=gpu.read_at_s,
                )
            )
            gpu.told_j, gpu.told_at_s = gpu.energy_j, gpu.read_at_s
        return tuple(found)

    def names(self) -> dict[str, str]:
        """UUIDs by index, as Ray names GPUs."""
        return {str(gpu.index): gpu.uuid for gpu in list(self._gpus.values())}

    def close(self) -> None:
        """Give NVML back."""
        if self._open:
            self._open = False
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError as error:
                self.errors["nvml"] = _word(error)

    def _opened(self, now_s: float) -> bool:
        if now_s < self._retry_at_s:
            return False
        try:
            pynvml.nvmlInit()
            self._open = True
            self._find(now_s)
        except pynvml.NVMLError as error:
            self.errors["nvml"] = _word(error)
            self._retry_at_s = now_s + _RETRY_S
            self._open = False
            return False
        self.errors.pop("nvml", None)
        return True

    def _find(self, now_s: float) -> None:
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                uuid = _text(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)))
            except pynvml.NVMLError as error:
                self.errors[f"gpu-{index}"] = _word(error)
                continue
            self.errors.pop(f"gpu-{index}", None)
            known = self._gpus.setdefault(uuid, _Gpu(uuid, index, counts=self._use_counter))
            # What it used meanwhile is not known; it is not guessed.
            known.index, known.counter_mj, known.power_w, known.read_at_s = index, None, None, now_s

    def _read(self, gpu: _Gpu, now_s: float) -> None:
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
        if gpu.counts:
            try:
                self._count(gpu, int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)))
            except pynvml.NVMLError as error:
                if error.value not in _LACKING:
                    raise
                gpu.counts = False
        if not gpu.counts:
            self._integrate(gpu, pynvml.nvmlDeviceGetPowerUsage(handle) / 1000.0, now_s)
        gpu.read_at_s = now_s
        if gpu.lost:
            gpu.lost, gpu.told_at_s, gpu.told_j = False, now_s, gpu.energy_j
        self.errors.pop(gpu.uuid, None)

    def _count(self, gpu: _Gpu, counter_mj: int) -> None:
        if gpu.counter_mj is not None:
            # A smaller reading: the driver was reloaded or the counter wrapped; it began anew from 0.
            more = counter_mj - gpu.counter_mj
            gpu.energy_j += (more if more >= 0 else counter_mj) / 1000.0
        gpu.counter_mj = counter_mj

    def _integrate(self, gpu: _Gpu, power_w: float, now_s: float) -> None:
        if gpu.power_w is not None and gpu.read_at_s is not None and not gpu.lost:
            gpu.energy_j += (gpu.power_w + power_w) / 2.0 * (now_s - gpu.read_at_s)
        gpu.power_w = power_w

    def _failed(self, gpu: _Gpu, error: pynvml.NVMLError, now_s: float) -> None:
        self.errors[gpu.uuid] = _word(error)
        gpu.lost = True
        gpu.counter_mj = gpu.power_w = None
        if error.value in _GONE:
            self.errors["nvml"] = _word(error)
            self._open = False
            self._retry_at_s = now_s + _RETRY_S


def _word(error: pynvml.NVMLError) -> str:
    return _ERROR_CODES.get(error.value, "other")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
