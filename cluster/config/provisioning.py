"""How many replicas of which hardware are awake."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from cluster.config.base import Section

PolicyName = Literal[
    "unit_commitment",
    "static_peak",
    "ongoing_requests",
    "utilisation",
    "queue_length",
    "interpolation",
    "two_pool",
]


class ObjectiveConfig(Section):
    """What a plan costs, in dollars per hour; demand that cannot be served within SLO outweighs all of it."""

    usd_per_kwh: float = Field(default=0.10, ge=0)
    """Price of electricity."""

    co2_g_per_kwh: float = Field(default=400.0, ge=0)
    """Carbon intensity of electricity."""

    usd_per_co2_kg: float = Field(default=0.0, ge=0)
    """What a kilogram of CO2 is to count."""

    energy_weight: float = Field(default=1.0, ge=0)
    """Weight of energy (electricity and its carbon)."""

    price_weight: float = Field(default=0.0, ge=0)
    """Weight of the replicas' hourly price. 0 plans for energy alone, as on hardware that is paid for."""

    @model_validator(mode="after")
    def _counts_something(self) -> "ObjectiveConfig":
        if not (self.energy_weight or self.price_weight):
            raise ValueError("energy_weight and price_weight are both 0; a plan must cost something")
        return self


class ForecastConfig(Section):
    """What demand is expected when a replica that is asked for now would be ready."""

    band_sigmas: float = Field(default=0.0, ge=0, le=6)
    """Width of the uncertainty band above the expected demand, in standard deviations of past errors. 0
    leaves the margin to `damping.scale_down_window_s`: a fleet that is kept for the most work of some minutes
    is ready for what the next ones scatter."""

    half_life_s: float = Field(default=300.0, gt=0)
    """Age at which an observation counts half."""

    season_bins: int = Field(default=144, ge=1, le=1440)
    """Parts of a day whose usual ratio to the daily mean is learnt; 1 learns none."""

    horizon_s_min: float = Field(default=60.0, ge=0)
    """Look at least this far ahead, even where replicas start faster."""


class DampingConfig(Section):
    """How fast wishes become changes. Seconds since stored instants, never ticks."""

    scale_down_window_s: float = Field(default=300.0, ge=0)
    """The fleet shrinks to what the highest demand of this past window needs, so that a dip does not cost a
    start."""

    cool_down_up_s: float = Field(default=0.0, ge=0)
    """Pause between two enlargements of a pool."""

    cool_down_down_s: float = Field(default=60.0, ge=0)
    """Pause between a change of a pool and its next reduction."""

    step_up_max: int = Field(default=64, ge=1)
    """Replicas that one decision may add to a pool."""

    step_down_max: int = Field(default=8, ge=1)
    """Replicas that one decision may take from a pool."""

    dead_band: float = Field(default=0.15, ge=0, lt=1)
    """Work that is less than this share below what was planned for changes nothing."""

    tolerance: float = Field(default=0.05, ge=0, le=1)
    """A cheaper mix of pools is taken only if it saves at least this share of the plan's cost."""

    unplaceable_after_s: float = Field(default=120.0, gt=0)
    """Replicas that were wanted for so long without starting are planned on another pool."""

    unplaceable_retry_s: float = Field(default=600.0, gt=0)
    """After this time the pool is tried again."""

    stale_after_s: float = Field(default=30.0, gt=0)
    """With observations older than this nothing is taken away."""


class PowerCapConfig(Section):
    """One entry of the power schedule."""

    from_hour: float = Field(default=0.0, ge=0, lt=24)
    """Start, hours after midnight UTC."""

    to_hour: float = Field(default=24.0, gt=0, le=24)
    """End; an end before the start goes over midnight."""

    watts: float = Field(gt=0)
    """What the fleet may draw in that time."""

    @model_validator(mode="after")
    def _lasts(self) -> "PowerCapConfig":
        if self.from_hour == self.to_hour:
            raise ValueError(
                f"from_hour and to_hour are both {self.from_hour:g}; leave them out to cap all day"
            )
        return self

    def holds_at(self, at_s: float) -> bool:
        """Whether the entry is in force at an instant (Unix time)."""
        hour = (at_s % 86400.0) / 3600.0
        if self.from_hour <= self.to_hour:
            return self.from_hour <= hour < self.to_hour
        return hour >= self.from_hour or hour < self.to_hour


class ProvisioningConfig(Section):
    """The provisioner. Pools whose `replicas.min` equals `replicas.max` are left as they are."""

    enabled: bool = True
    """Off leaves every pool at its initial size."""

    policy: PolicyName = "unit_commitment"
    """`unit_commitment` plans the whole fleet for the least energy and price within SLO; the others are the
    rules that are in use elsewhere, for comparison."""

    period_s: float = Field(default=5.0, gt=0)
    """Pause between two decisions."""

    solver_share: float = Field(default=0.5, gt=0, le=1)
    """Share of `period_s` that solving the programs of one decision may take. When it is over, the best plan
    found by then is taken, or what is there stays; the decision says `solver_stopped`."""

    prompt_bands: tuple[int, ...] = (512, 4096)
    """Upper bounds of the prompt lengths that make workload classes; longer prompts are the last class."""

    utilisation_max: float = Field(default=0.95, gt=0, le=1)
    """Share of a replica's computed capacity that a plan may use."""

    prewarm: bool = True
    """Ask Ray's autoscaler for nodes as soon as a plan needs them, for all pools at once, rather than when
    replicas wait for them. Concerns pools that need GPUs, custom resources or labels."""

    spare_replicas: int = Field(default=0, ge=0)
    """Replicas that each model has awake beyond what its demand needs, for the loss of one."""

    backlog_drain_s: float = Field(default=30.0, gt=0)
    """Requests that wait are to be served within this time, on top of the forecast."""

    power_caps: tuple[PowerCapConfig, ...] = ()
    """What the fleet may draw, by time of day; the lowest of several that hold counts."""

    objective: ObjectiveConfig = ObjectiveConfig()
    forecast: ForecastConfig = ForecastConfig()
    damping: DampingConfig = DampingConfig()

    log_records_max: int = Field(default=100_000, ge=100)
    """Decisions kept in the log; the oldest go first."""

    @model_validator(mode="after")
    def _bands_rise(self) -> "ProvisioningConfig":
        bands = self.prompt_bands
        if any(low >= high for low, high in pairwise((0, *bands))):
            raise ValueError(f"prompt_bands must be positive and rising, not {list(bands)}")
        return self

    def power_cap_w(self, at_s: float) -> float | None:
        """The cap in force at an instant; None if there is none."""
        return min((cap.watts for cap in self.power_caps if cap.holds_at(at_s)), default=None)
