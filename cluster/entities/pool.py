"""Pools and replicas, as observed."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, Protocol

from cluster.entities.adapters import AdapterResidency

PoolName = NewType("PoolName", str)
ReplicaId = NewType("ReplicaId", str)


class Role(StrEnum):
    """Which phases of a request the replicas of a pool compute."""

    PREFILL = "prefill"
    DECODE = "decode"
    COMBINED = "combined"

    @property
    def answers(self) -> bool:
        """Whether its replicas are asked for tokens (prefill replicas only as a last resort)."""
        return self is not Role.PREFILL


class ReplicaPhase(StrEnum):
    """Where a replica is in its life, as far as routing is concerned."""

    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCounters:
    """What an engine has done since it started; differences of two reports say how fast it is."""

    prefill_tokens: int = 0
    """Prompt tokens computed (those found in the prefix cache are not among them)."""
    prefill_s: float = 0.0
    """Summed over requests: time in prefill."""
    output_tokens: int = 0
    token_gaps: int = 0
    """Gaps between consecutive tokens of one answer."""
    token_gaps_s: float = 0.0
    """Their sum; divided by `token_gaps` it is the mean ITL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCacheReport:
    """What an engine says of its prefix cache."""

    tokens: int = 0
    """Prompt and output tokens whose KV blocks it keeps."""
    tokens_when_full: int | None = None
    """How many those were when it last gave a block up to make room; None if it never had to."""
    clears: int = 0
    """How often it was emptied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """What one engine replica says of itself, about once a second."""

    replica_id: ReplicaId
    pool: PoolName
    role: Role
    model: str
    gpu_type: str
    url: str
    """Base address of the replica's own HTTP port, without a trailing slash."""
    phase: ReplicaPhase
    observed_at_s: float
    """Wall clock of the reporting node (comparable across nodes only as far as their clocks agree; how old a
    report is, the directory knows)."""
    started_at_s: float
    requests_running: int = 0
    requests_waiting: int = 0
    kv_cache_usage: float = 0.0
    """Fraction of KV cache blocks in use, 0..1."""
    prefill_tokens_per_s: float | None = None
    """Measured prefill rate; None until the replica has prefilled something."""
    max_concurrent_requests: int = 64
    """How many requests the router may have in flight on this replica."""
    node_id: str = ""
    """Ray's id of the node it runs on."""
    gpus: tuple[str, ...] = ()
    """Indices or UUIDs of the GPUs that Ray gave it."""
    counters: EngineCounters = EngineCounters()
    prefix_cache: PrefixCacheReport | None = None
    """None if the engine does not tell."""
    adapters: tuple[AdapterResidency, ...] = ()
    """Every LoRA adapter it knows, and where it has it; empty for a replica without slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginalEnergy:
    """What one more request makes a replica use beyond being awake, by what there is to compute."""

    prefill_token_j: float
    """Every prompt token that its prefix cache does not hold."""
    decode_token_j: float
    """Every token of output, the request's own context apart."""
    context_token_j: float
    """Every token of output again, for each token of the request's own context."""


class ReplicaCandidate(Protocol):
    """What replica routing reads of a candidate: of a `ReplicaView` (see there) or of a simulated replica."""

    @property
    def replica_id(self) -> ReplicaId: ...
    @property
    def role(self) -> Role: ...
    @property
    def phase(self) -> ReplicaPhase: ...
    @property
    def pending_prefill_tokens(self) -> int: ...
    @property
    def requests_in_flight(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def prefill_tokens_per_s(self) -> float: ...
    @property
    def step_s(self) -> float: ...
    @property
    def kv_cache_usage(self) -> float: ...
    @property
    def max_concurrent_requests(self) -> int: ...
    @property
    def put_aside_until_s(self) -> float: ...
    @property
    def energy(self) -> MarginalEnergy | None: ...
    @property
    def requests_waiting(self) -> int: ...
    @property
    def decode_tokens(self) -> int: ...
    @property
    def adapters(self) -> tuple[str, ...]: ...
    @property
    def adapters_in_host(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaView:
    """One candidate as a router sees it at the moment of a decision."""

    replica_id: ReplicaId
    pool: PoolName
    role: Role
    phase: ReplicaPhase = ReplicaPhase.READY
    pending_prefill_tokens: int = 0
    """Uncached prompt tokens this router has dispatched there whose first token has not come back."""
    requests_in_flight: int = 0
    """Requests this router has in flight there."""
    requests_waiting: int = 0
    """Those of them whose first token has not come back."""
    decode_tokens: int = 0
    """Context tokens of the requests that are decoding there."""
    cached_tokens: int = 0
    """How many of this prompt's leading tokens its prefix cache probably holds."""
    prefill_tokens_per_s: float = 1000.0
    """Measured or assumed prefill rate."""
    step_s: float = 0.0
    """One engine step under what decodes there, from its pool's performance in the last fleet snapshot; 0 if
    there is none."""
    kv_cache_usage: float = 0.0
    """Fraction of its KV cache in use, as it last reported."""
    max_concurrent_requests: int = 64
    put_aside_until_s: float = 0.0
    """Not to be chosen before this instant, because it failed."""
    energy: MarginalEnergy | None = None
    """What another request costs there, from its pool's power and performance in the last fleet snapshot;
    None if there is none."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters in its engine's slots; of a live replica only the one that the request asks for."""
    adapters_in_host: tuple[str, ...] = ()
    """The same of those that its engine has in the host's memory and not in a slot."""
