"""Energy as it is metered, modelled and shared out. Joules and watts; what is modelled says so."""

from dataclasses import dataclass
from enum import StrEnum


class EnergySource(StrEnum):
    """Whether a joule was measured or computed from a model. The two are never added up under one label."""

    MEASURED = "measured"
    MODELLED = "modelled"


class Meter(StrEnum):
    """What a reading comes from, best first."""

    NVML_COUNTER = "nvml_counter"
    """NVML's total-energy counter (Volta and later)."""
    NVML_POWER = "nvml_power"
    """NVML's power reading, integrated over time."""
    RAPL = "rapl"
    """The package and DRAM counters of the CPU."""
    MODEL = "model"
    """Power as a function of load, from the performance profile."""

    @property
    def source(self) -> EnergySource:
        """Measured for everything but the model."""
        return EnergySource.MODELLED if self is Meter.MODEL else EnergySource.MEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReading:
    """What one device has used since its meter was started."""

    device: str
    """`GPU-…` (NVML's UUID), `cpu-package-0`, or `model:REPLICA`."""
    meter: Meter
    energy_j: float
    """Cumulative and never falling: resets and wraps of the underlying counter are taken out."""
    power_w: float | None
    """Mean power since the previous reading; None for the first."""
    observed_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyShare:
    """What one request is charged for one window."""

    active_j: float
    """Its share of the energy above idle: what it caused."""
    idle_j: float
    """Its share of what the replica would have used anyway."""

    @property
    def total_j(self) -> float:
        """Both parts."""
        return self.active_j + self.idle_j
