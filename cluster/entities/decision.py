"""What the decision log says of one request: the inputs of every decision, what was decided, what came of it.

A record holds enough to take its decisions again (`cluster.replay`) and to judge another policy on old
traffic. It never holds the prompt or the answer.
"""

from dataclasses import dataclass, field

from cluster.entities.adapter_routing import AdapterAnswer, AdapterDecision
from cluster.entities.model_routing import ModelCandidate, ModelChoice, ModelSignals
from cluster.entities.pool import ReplicaId, ReplicaView
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path, PathChoice, ReplicaChoice
from cluster.entities.timeline import Timeline
from cluster.entities.workload import RequestSignals


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDecision:
    """One choice of a model with everything it was made from, except for the learnt state itself."""

    asked: str
    """The name under which the caller left the model open."""
    signals: ModelSignals
    candidates: tuple[ModelCandidate, ...]
    decided_at_s: float
    """Unix time, as learning has it."""
    draw: float
    """The chance that was used, in [0, 1)."""
    choice: ModelChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeAnswer:
    """One model of a cascade, its answer judged before anything was sent."""

    model: str
    grade: float | None
    """Of its answer, 0..1; None if it could not be graded or was not to be judged any more."""
    accepted: bool
    """Whether the client got this answer."""
    reasons: tuple[Reason, ...] = ()
    """Why it was sent, or another model asked."""
    prompt_tokens: int = 0
    """With its judge's, as everything it took."""
    output_tokens: int = 0
    cost_usd: float = 0.0
    started_at_s: float
    ended_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDecision:
    """One choice of a replica with everything it was made from."""

    prompt_tokens: int
    candidates: tuple[ReplicaView, ...]
    decided_at_s: float
    draw: float
    """The chance that was used, in [0, 1)."""
    remembered: dict[ReplicaId, float] = field(default_factory=dict)
    """What the policy's memory said of the candidates; empty for policies without memory."""
    choice: ReplicaChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class PathDecision:
    """The choice of a path with everything it was made from, the request's signals apart."""

    decode: ReplicaView
    prefill: tuple[ReplicaView, ...]
    decided_at_s: float
    choice: PathChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request sent to one engine replica."""

    replica_id: str
    role: str
    outcome: str
    reason: Reason | None = None
    """Why it failed, or why it was made."""
    started_at_s: float
    ended_at_s: float | None = None
    """None if the record was written before it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """Everything decided about one request."""

    decision_id: str
    router: str
    """Id of the router replica that decided."""
    at_wall_s: float
    """Unix time of the arrival; all other instants are on the router's own clock."""
    signals: RequestSignals
    cache: str
    """Outcome of the semantic cache: `exact`, `semantic`, `miss` or `bypass`."""
    model_choice: ModelDecision | None = None
    """Why this model; None if the caller named one. After a fallback, the last choice."""
    adapter_choice: AdapterDecision | None = None
    """Why this adapter; None if the base model was asked."""
    adapter_answer: AdapterAnswer | None = None
    """Which adapter answered; None if no replica said so."""
    cascade: tuple[CascadeAnswer, ...] = ()
    """Models that were asked one after the other; empty without a cascade."""
    path: Path | None = None
    """The path finally taken, which a fallback may have changed; None if nothing was answered."""
    replica: ReplicaDecision | None = None
    """Where the tokens are made; with several attempts, the last choice."""
    path_decision: PathDecision | None = None
    prefill: ReplicaDecision | None = None
    attempts: tuple[Attempt, ...] = ()
    reasons: tuple[Reason, ...] = ()
    """What shaped the request beside those choices: fallbacks, retries, admission."""
    status: int
    """HTTP status that the client got."""
    error: str | None = None
    timeline: Timeline
    prompt_tokens: int | None = None
    """The engine's count; None if it gave none."""
    cached_tokens: int | None = None
    """Prompt tokens that the engine found in its prefix cache; None if it did not say."""
    output_tokens: int = 0
    config_hash: str
    """Hash of the configuration in force; the policies' settings are part of their input."""
