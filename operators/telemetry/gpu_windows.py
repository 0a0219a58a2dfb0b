"""Windows of time in which a GPU works without a gap, or rests, while its meters are read."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

from operators.telemetry.gpu_fits import counter_power_w, renewal_s
from operators.telemetry.nvml import NvmlMeter

_CHUNK_S = 0.05
"""Work that is handed over at once: short against the window, long against handing over."""
_AGENT_PERIOD_S = 0.2
"""How often the telemetry agent reads by default (`telemetry.sample_period_s`)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Both meters at one time. None where there is no such meter."""

    at_s: float
    counter_j: float | None
    integrated_j: float | None


class GpuMeters:
    """Tidemill's own meter twice: by the energy counter, and by power readings as where there is none."""

    def __init__(self, index: int) -> None:
        """Open NVML; without it every reading is None.

        Args:
            index: NVML's number of the GPU.
        """
        self._counter = NvmlMeter(time.perf_counter)
        self._power = NvmlMeter(time.perf_counter, use_counter=False)
        self._counter.sample()
        self._power.sample()
        self.count = len(self._counter.names())
        self.uuid = self._counter.names().get(str(index))
        self.errors = self._counter.errors

    def sample(self) -> Sample:
        """Read both."""
        self._counter.sample()
        self._power.sample()
        return Sample(time.perf_counter(), self._energy_j(self._counter), self._energy_j(self._power))

    def facts(self) -> dict[str, Any]:
        """What the GPU is and how it is set."""
        if self.uuid is None:
            return {"name": None, "errors": self.errors}
        handle = pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
        return {
            "name": _told(lambda: pynvml.nvmlDeviceGetName(handle)),
            "driver": _told(pynvml.nvmlSystemGetDriverVersion),
            "nvml": _told(pynvml.nvmlSystemGetNVMLVersion),
            "power_limit_w": _told(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000.0),
            "memory_bytes": _told(lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)),
            "sm_clock_max_mhz": _told(lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            "persistence_mode": _told(lambda: pynvml.nvmlDeviceGetPersistenceMode(handle)),
        }

    def state(self) -> dict[str, Any]:
        """Clocks and temperature now."""
        if self.uuid is None:
            return {}
        handle = pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
        return {
            "sm_clock_mhz": _told(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            "memory_clock_mhz": _told(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
            "temperature_c": _told(
                lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
            ),
        }

    def close(self) -> None:
        """Give NVML back."""
        self._counter.close()
        self._power.close()

    def _energy_j(self, meter: NvmlMeter) -> float | None:
        found = [reading.energy_j for reading in meter.readings() if reading.device == self.uuid]
        return found[0] if found else None


class GpuTimer:
    """Marks in the GPU's own queue of work; wall time where there is no CUDA."""

    def __init__(self, torch: Any) -> None:
        """Use CUDA events if there is CUDA."""
        self._torch = torch if torch.cuda.is_available() else None

    def mark(self) -> Any:
        """Put a mark behind the work handed over so far."""
        if self._torch is None:
            return time.perf_counter()
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self, mark: Any) -> None:
        """Until the GPU has come to the mark."""
        if self._torch is not None:
            mark.synchronize()

    def between_s(self, first: Any, last: Any) -> float:
        """Seconds between two marks that were reached."""
        if self._torch is None:
            return float(last - first)
        return float(first.elapsed_time(last)) / 1000.0


def busy(
    meters: GpuMeters, timer: GpuTimer, step: Callable[[], Any], *, settle_s: float, window_s: float
) -> dict[str, Any]:
    """Repeat a step and say how long it takes and what the GPU draws meanwhile.

    The next chunk of steps is handed over before the one before is done, so that the GPU never waits.

    Args:
        meters: of that GPU.
        timer: of its queue.
        step: hands work over; need not wait for it.
        settle_s: work before the window; power readings are means over the last second (NVML's
            documentation of nvmlDeviceGetPowerUsage), and clocks follow the load.
        window_s: how long.
    """
    chunk = max(1, round(_CHUNK_S / max(_first_guess_s(timer, step), 1e-5)))
    began_s = time.perf_counter()
    ahead, first, last, steps = timer.mark(), None, None, 0
    samples: list[Sample] = []
    while (now_s := time.perf_counter()) < began_s + settle_s + window_s or not samples or steps == 0:
        for _ in range(chunk):
            step()
        done, ahead = ahead, timer.mark()
        timer.wait(done)
        if now_s >= began_s + settle_s:
            steps += chunk if first is not None else 0
            first, last = first or done, done
            samples.append(meters.sample())
    state = meters.state()
    timer.wait(ahead)
    return {
        "step_s": timer.between_s(first, last) / steps,
        "steps": steps,
        **metered(samples),
        **state,
    }


def _first_guess_s(timer: GpuTimer, step: Callable[[], Any]) -> float:
    # The first call may load a library; it is not timed.
    step()
    begin = timer.mark()
    timer.wait(begin)
    step()
    step()
    end = timer.mark()
    timer.wait(end)
    return timer.between_s(begin, end) / 2.0


def idle(meters: GpuMeters, *, settle_s: float, window_s: float) -> dict[str, Any]:
    """What the GPU draws while nothing is asked of it."""
    time.sleep(settle_s)
    began_s = time.perf_counter()
    samples = [meters.sample()]
    while time.perf_counter() < began_s + window_s:
        time.sleep(_CHUNK_S)
        samples.append(meters.sample())
    return {**metered(samples), **meters.state()}


def alternating(
    meters: GpuMeters, timer: GpuTimer, step: Callable[[], Any], *, phase_s: float, times: tuple[float, float]
) -> dict[str, Any]:
    """Work and rest in turns, read as seldom as by the telemetry agent: hard for power readings.

    Args:
        meters: of that GPU.
        timer: of its queue.
        step: short against a phase.
        phase_s: of work, and of rest.
        times: seconds before the window, in which readings forget what was before, and of the window.
    """
    began_s = time.perf_counter()
    samples: list[Sample] = []
    while (now_s := time.perf_counter()) < began_s + sum(times):
        if int((now_s - began_s) / phase_s) % 2 == 0:
            step()
            timer.wait(timer.mark())
        else:
            time.sleep(_CHUNK_S / 5)
        now_s = time.perf_counter()
        if now_s >= (samples[-1].at_s + _AGENT_PERIOD_S if samples else began_s + times[0]):
            samples.append(meters.sample())
    return {"phase_s": phase_s, **metered(samples)}


def metered(samples: list[Sample]) -> dict[str, Any]:
    """Mean power over some samples, by either meter; `power_w` is the better one there is."""
    counted = [(s.at_s, s.counter_j) for s in samples if s.counter_j is not None]
    integrated = [(s.at_s, s.integrated_j) for s in samples if s.integrated_j is not None]
    counter_w = counter_power_w(counted)
    integrated_w = None
    if len(integrated) >= 2 and integrated[-1][0] > integrated[0][0]:
        integrated_w = (integrated[-1][1] - integrated[0][1]) / (integrated[-1][0] - integrated[0][0])
    return {
        "power_w": counter_w if counter_w is not None else integrated_w,
        "counter_w": counter_w,
        "integrated_w": integrated_w,
        "counter_renewal_s": renewal_s(counted),
        "samples": len(samples),
        "window_s": samples[-1].at_s - samples[0].at_s if samples else 0.0,
    }


def _told(read: Callable[[], Any]) -> Any:
    """A fact, or None where the driver does not tell it."""
    try:
        return read()
    except pynvml.NVMLError:
        return None
