"""What the provisioner sees (FleetSnapshot), wants (FleetPlan), remembers (ProvisionerState) and says why.

All of it is plain data with a JSON form, so that every decision can be logged and taken again. The live
cluster and the simulator build their snapshots with the same function (`cluster.policy.observation`).
"""

from dataclasses import dataclass, field
from enum import StrEnum

from cluster.entities.energy import EnergySource
from cluster.entities.performance import ReplicaPerformance
from cluster.entities.pool import PoolName, ReplicaId, Role
from cluster.entities.reasons import Reason


class ReplicaStage(StrEnum):
    """Where a replica is in its life, as far as capacity is concerned."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaObservation:
    """One replica at the moment of the snapshot."""

    replica_id: ReplicaId
    stage: ReplicaStage
    requests_running: int = 0
    requests_waiting: int = 0
    kv_cache_usage: float = 0.0
    """Fraction of KV cache blocks in use, 0..1."""
    since_s: float = 0.0
    """When it was first seen in this stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolObservation:
    """One pool at the moment of the snapshot."""

    pool: PoolName
    model: str
    role: Role
    gpu_type: str
    replicas: tuple[ReplicaObservation, ...] = ()
    """Ordered by id."""
    replicas_wanted: int
    """What was last asked for, whether or not it is there yet."""
    replicas_placeable: int | None = None
    """Replicas that the hardware could hold in total, those that exist included; None if not known."""
    unplaced_since_s: float | None = None
    """Since when replicas were wanted and nothing more has started."""
    performance: ReplicaPerformance
    """What is believed of its replicas now: profile, or refit from reports."""
    power_w: float | None = None
    """Power of all its replicas over the last window."""
    power_source: EnergySource | None = None
    output_tokens_per_s: float | None = None
    """Tokens that all its replicas made over the last window, of answers that are over or not; None if not
    known."""
    reported_at_s: float | None = None
    """Oldest report among its ready replicas; None if it has none."""

    def count(self, *stages: ReplicaStage) -> int:
        """Replicas in one of the given stages (in any, if none is given)."""
        return sum(1 for replica in self.replicas if not stages or replica.stage in stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDemand:
    """What arrived and finished of one workload class in one window. Sums, so that windows add up."""

    model: str
    workload_class: str
    """Band of prompt lengths (`cluster.policy.workload_class`)."""
    arrivals: int = 0
    """Requests that needed an engine: hits of the semantic cache are not among them."""
    prompt_tokens: int = 0
    """Over the arrivals."""
    prompt_tokens_squared: float = 0.0
    """Over the arrivals: sum of squares, for the variance of prefill times."""
    completions: int = 0
    cached_prompt_tokens: int = 0
    """Over the completions: prompt tokens that an engine found in its prefix cache."""
    completed_prompt_tokens: int = 0
    """Over the completions."""
    output_tokens: int = 0
    """Over the completions."""
    attended_tokens: float = 0.0
    """Over the completions: context that decode steps attended to, added up over the steps. By output tokens
    it is the mean context while decoding: long answers count for more of it than their number."""
    cache_hits: int = 0
    """Requests that the semantic cache answered."""
    slo_met: int = 0
    """Completions within every objective of the model's SLO."""

    @property
    def token_sums(self) -> tuple[float, ...]:
        """What lengths are derived from, in the order of `SeriesMemory.tokens`."""
        return (
            self.arrivals,
            self.prompt_tokens,
            self.prompt_tokens_squared,
            self.completions,
            self.completed_prompt_tokens,
            self.cached_prompt_tokens,
            self.output_tokens,
            self.attended_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandWindow:
    """Demand between two instants."""

    started_at_s: float
    ended_at_s: float
    classes: tuple[ClassDemand, ...] = ()
    """Ordered by model and class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBacklog:
    """What waits in the routers for a replica of a model."""

    model: str
    requests: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """Everything one decision is made from, beside its state and the configuration."""

    observed_at_s: float
    """Unix time: schedules (power caps, prices) depend on the time of day."""
    pools: tuple[PoolObservation, ...]
    """Ordered by name."""
    demand: DemandWindow
    """Since the previous snapshot."""
    backlog: tuple[ModelBacklog, ...] = ()
    """Ordered by model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTarget:
    """What is wanted of one pool."""

    pool: PoolName
    replicas: int
    prompt_tokens_min: int = 0
    """Shorter prompts go to other pools."""
    prompt_tokens_max: int | None = None
    """Longer prompts go to other pools; None: any length."""
    drain_first: tuple[ReplicaId, ...] = ()
    """Replicas in the order in which they should go, least work first."""
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What is wanted of the fleet."""

    pools: tuple[PoolTarget, ...]
    """Ordered by name; one for every pool of the snapshot."""
    power_w: float | None = None
    """Predicted power of the fleet at the forecast demand; None where a policy predicts none."""
    power_cap_w: float | None = None
    """The cap in force; None without one."""
    degraded: bool = False
    """Whether the forecast demand cannot be served within SLO: power cap, hardware or bounds forbid it."""

    def replicas(self, pool: str) -> int:
        """The target of one pool.

        Raises:
            KeyError: the plan has no such pool.
        """
        for target in self.pools:
            if target.pool == pool:
                return target.replicas
        raise KeyError(pool)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassForecast:
    """Expected demand of one workload class over a start-up horizon."""

    model: str
    workload_class: str
    arrivals_per_s: float
    """Upper end of the uncertainty band: what to be ready for."""
    arrivals_mean_per_s: float
    """The middle of the band: what is expected."""
    prompt_tokens: float
    """Mean per request."""
    prompt_tokens_squared: float
    """Mean square per request."""
    output_tokens: float
    """Mean per request."""
    context_tokens: float
    """Mean over decode steps."""
    cached_fraction: float
    """Part of the prompt tokens found in prefix caches, 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesMemory:
    """What the forecast remembers of one series of arrivals. Sums over windows, older ones counting less."""

    moments: tuple[float, ...] = ()
    """Of a line through requests per second, hits of the semantic cache among them, by time, from now back:
    Σw, Σw², Σwt, Σwt², Σwy, Σwty, Σwy²."""
    recent: tuple[float, ...] = ()
    """Of the last minute or so: Σw, Σw², Σwt, Σwy."""
    missed: tuple[float, ...] = ()
    """Of the last minute or so: requests that needed an engine, and all requests."""
    tokens: tuple[float, ...] = ()
    """Arrivals, their prompt tokens, the squares of these; completions, their prompt, cached, output and
    attended tokens."""
    recent_tokens: tuple[float, ...] = ()
    """The same of the last few answers' time."""
    arrived_at_s: float = 0.0
    """End of the last window with an arrival."""
    season: tuple[float, ...] = ()
    """Mean arrivals per second by time of day; negative where that time was never seen."""
    errors: tuple[float, ...] = ()
    """Mean squares of the relative error over the horizon: of the line, of the season."""
    pending: tuple[tuple[float, float, float], ...] = ()
    """(instant, what the line, what the season said of it), oldest first: judged when it has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMemory:
    """What damping remembers of one pool."""

    changed_up_at_s: float | None = None
    changed_down_at_s: float | None = None
    wishes: tuple[tuple[float, int], ...] = ()
    """(instant, replicas that a rule wanted), oldest first; which ones are kept is the rule's business."""
    unplaceable_until_s: float | None = None
    """Until then the pool is taken for unable to grow beyond what it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionerState:
    """What carries over from one decision to the next. Persisted with every decision."""

    series: dict[str, SeriesMemory] = field(default_factory=dict)
    """By `model/workload_class`."""
    pools: dict[str, PoolMemory] = field(default_factory=dict)
    peaks: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    """By model: (instant, work to be ready for) within the scale-down window, oldest first, without those
    that a later and larger one makes irrelevant."""
    planned_work: dict[str, float] = field(default_factory=dict)
    """By model: what the last plan was made for, in engine seconds per second on one of its pools."""
    made_tokens: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By model: output tokens that its engines made, and those of the answers that ended, over the time of
    the last few answers."""
    demand_seen_until_s: float = 0.0
    plan: FleetPlan | None = None
    """The last plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetDecision:
    """A plan, what to remember, and why."""

    plan: FleetPlan
    state: ProvisionerState
    forecast: tuple[ClassForecast, ...] = ()
    reasons: tuple[Reason, ...] = ()
    """What shaped the plan as a whole; each pool's own are with its target."""
