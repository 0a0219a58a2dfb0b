"""What goes wrong in a simulated world, and when. Plain data; the world carries it out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFailure:
    """A replica dies at once; streams that have begun on it break, everything else is tried elsewhere."""

    at_s: float
    pool: str
    """The oldest ready replica of this pool; nothing happens if it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareLost:
    """A GPU type is gone for a while: its replicas die, and no new one can be placed."""

    at_s: float
    until_s: float
    gpu_type: str
    kills: bool = True
    """Whether the replicas that run die; otherwise only new ones cannot be placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalsStale:
    """Replicas do not report: the provisioner sees what it last saw."""

    at_s: float
    until_s: float


Fault = ReplicaFailure | HardwareLost | SignalsStale
