"""What a routing decision says."""

from dataclasses import dataclass, field
from enum import StrEnum

from cluster.entities.pool import ReplicaId
from cluster.entities.reasons import Reason


class Path(StrEnum):
    """How a request is answered."""

    CACHED = "cached"
    COMBINED = "combined"
    DISAGGREGATED = "disaggregated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaChoice:
    """The replica to send to, with what every candidate scored (lower is better; predicted seconds)."""

    replica_id: ReplicaId | None
    """None if no candidate can take the request now."""
    scores: dict[ReplicaId, float] = field(default_factory=dict)
    energies_j: dict[ReplicaId, float] = field(default_factory=dict)
    """What the request would cost on those whose scores were close enough for energy to decide."""
    reasons: tuple[Reason, ...] = ()
    propensity: float = 1.0
    """Probability with which chance picked this one among equals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathChoice:
    """Whether the prompt is computed by a prefill replica or where the tokens are made."""

    path: Path
    reasons: tuple[Reason, ...] = ()
