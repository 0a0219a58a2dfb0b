"""One experiment: fleet, traffic, policy, seed, faults."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.config import TidemillConfig
from cluster.entities.performance import ReplicaPerformance
from cluster.simulation.faults import Fault
from cluster.simulation.traffic.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a simulation depends on: equal scenarios give equal reports."""

    config: TidemillConfig
    traces: Mapping[str, Trace]
    """Traffic by model."""
    seed: int = 0
    policy: str | None = None
    """Provisioning policy in place of the configured one; `fixed` leaves every pool at its initial size."""
    faults: tuple[Fault, ...] = ()
    started_at_unix_s: float = 0.0
    """Unix time of the beginning; schedules depend on the time of day."""
    warm_up_s: float = 0.0
    """Requests that arrive before this are served and not counted."""
    performance: Mapping[str, ReplicaPerformance] = field(default_factory=dict)
    """By pool: what its replicas really do, in place of what the catalogue says."""
    as_live: bool = False
    """Let the provisioner know only what it would in a live cluster: it learns speed and power from what
    replicas report, and notices missing hardware by replicas that do not start. Otherwise it is told."""
    routers: int = 1
    """Requests go to so many routers in turn. Each knows its own dispatches at once and those of the others
    from snapshots, together with the prompts that have been computed since."""
    snapshot_s: float = 0.2
    """How often routers hear of each other's requests in flight."""
    single_steps: bool = False
    """Take every engine step on its own: slow, to check the closed forms."""
    check_invariants: bool = False
    """Check the world after every event: slow."""
