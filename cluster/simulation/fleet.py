"""Replicas and pools of the simulated fleet."""

from dataclasses import dataclass, field

from cluster.config.pools import PoolConfig
from cluster.entities.fleet import ReplicaObservation, ReplicaStage
from cluster.entities.performance import ReplicaPerformance
from cluster.entities.pool import MarginalEnergy, PoolName, ReplicaId, ReplicaPhase, ReplicaReport
from cluster.performance.latency import prefill_tokens_per_s, step_s
from cluster.policy.routing.replicas.energy import marginal_energy
from cluster.policy.routing.replicas.memory import ReplicaMemory
from cluster.simulation.engine import VirtualEngine
from cluster.simulation.request import SimulatedRequest


class Countable:
    """What is counted on a replica, and what follows from the counts; replica routing reads it."""

    __slots__ = (
        "cached_tokens",
        "decode_tokens",
        "kv_cache_usage",
        "pending_prefill_tokens",
        "pool",
        "requests_in_flight",
        "requests_waiting",
    )

    adapters: tuple[str, ...] = ()
    adapters_in_host: tuple[str, ...] = ()

    def __init__(self, pool: "SimulatedPool") -> None:
        self.pool = pool
        self.pending_prefill_tokens = 0
        self.requests_in_flight = 0
        self.requests_waiting = 0
        self.decode_tokens = 0
        self.cached_tokens = 0
        """Of the prompt that is being routed; set before every choice."""
        self.kv_cache_usage = 0.0
        """Fraction of its KV cache in use; set before every choice."""

    @property
    def step_s(self) -> float:
        """One engine step under what decodes there, as the router sees it."""
        return step_s(
            self.pool.performance,
            sequences=self.requests_in_flight,
            context_tokens=self.decode_tokens,
            prefill_tokens=0.0,
        )

    @property
    def energy(self) -> MarginalEnergy:
        """What another request would use there."""
        return marginal_energy(
            self.pool.performance, sequences=self.requests_in_flight, context_tokens=self.decode_tokens
        )


class SimulatedReplica(Countable):
    """An engine and what is counted on it; replica routing reads it like a `ReplicaView`."""

    __slots__ = (
        "engine",
        "in_flight",
        "max_concurrent_requests",
        "phase",
        "prefill_tokens_per_s",
        "put_aside_until_s",
        "replica_id",
        "role",
        "since_s",
        "started_at_s",
    )

    def __init__(
        self, replica_id: ReplicaId, pool: "SimulatedPool", engine: VirtualEngine, now_s: float
    ) -> None:
        """A replica that has just become ready."""
        super().__init__(pool)
        self.replica_id = replica_id
        self.role = pool.config.role
        self.phase = ReplicaPhase.READY
        self.engine = engine
        self.prefill_tokens_per_s = prefill_tokens_per_s(pool.performance)
        self.max_concurrent_requests = pool.config.max_concurrent_requests
        self.put_aside_until_s = 0.0
        self.in_flight: dict[int, SimulatedRequest] = {}
        self.started_at_s = now_s
        self.since_s = now_s

    @property
    def replica(self) -> "SimulatedReplica":
        """Itself: where there is one router, it sees the truth."""
        return self

    def report(self, now_s: float, wall_s: float) -> ReplicaReport:
        """What it says of itself."""
        engine, pool = self.engine, self.pool
        return ReplicaReport(
            replica_id=self.replica_id,
            pool=pool.name,
            role=self.role,
            model=pool.config.model,
            gpu_type=pool.config.gpu_type,
            url=f"simulated://{self.replica_id}",
            phase=self.phase,
            observed_at_s=wall_s + now_s,
            started_at_s=wall_s + self.started_at_s,
            requests_running=engine.running,
            requests_waiting=len(engine.waiting),
            kv_cache_usage=engine.kv_cache_usage,
            prefill_tokens_per_s=self.prefill_tokens_per_s,
            max_concurrent_requests=self.max_concurrent_requests,
            counters=engine.meter.counters(),
        )


class SeenReplica(Countable):
    """A replica as one of several routers sees it: its own dispatches at once, those of the others late."""

    __slots__ = (
        "max_concurrent_requests",
        "prefill_tokens_per_s",
        "put_aside_until_s",
        "replica",
        "replica_id",
        "role",
    )

    def __init__(self, replica: SimulatedReplica, now_s: float) -> None:
        """As of now."""
        super().__init__(replica.pool)
        self.replica = replica
        self.replica_id = replica.replica_id
        self.role = replica.role
        self.prefill_tokens_per_s = replica.prefill_tokens_per_s
        self.max_concurrent_requests = replica.max_concurrent_requests
        self.put_aside_until_s = 0.0
        self.look(now_s)

    @property
    def phase(self) -> ReplicaPhase:
        """Who joins and leaves is told at once."""
        return self.replica.phase

    def look(self, now_s: float) -> None:
        """Take over what the snapshot of this instant says of all routers' requests."""
        replica = self.replica
        self.pending_prefill_tokens = replica.pending_prefill_tokens
        self.requests_in_flight = replica.requests_in_flight
        self.requests_waiting = replica.requests_waiting
        self.decode_tokens = replica.decode_tokens
        self.kv_cache_usage = replica.engine.kv_cache_usage_at(now_s)


@dataclass(slots=True)
class Dispatch:
    """One request's weight on one replica, from dispatch to release, and on what its router sees of it."""

    replica: SimulatedReplica
    uncached_tokens: int
    memory: ReplicaMemory
    counted: tuple[Countable, ...]
    decoding: bool = False

    @classmethod
    def take(
        cls,
        seen: SimulatedReplica | SeenReplica,
        request: SimulatedRequest,
        uncached_tokens: int,
        memory: ReplicaMemory,
    ) -> "Dispatch":
        """Count a request in."""
        replica = seen.replica
        counted: tuple[Countable, ...] = (replica,) if seen is replica else (replica, seen)
        for counts in counted:
            counts.requests_in_flight += 1
            counts.requests_waiting += 1
            counts.pending_prefill_tokens += uncached_tokens
        replica.in_flight[request.index] = request
        return cls(replica, uncached_tokens, memory, counted)

    def recompute(self, uncached_tokens: int) -> None:
        """The prompt comes with no ticket after all."""
        self.uncached_tokens += uncached_tokens
        for counts in self.counted:
            counts.pending_prefill_tokens += uncached_tokens

    def first_token(self, request: SimulatedRequest) -> None:
        """The prompt has been computed; from now on the request decodes."""
        if self.decoding:
            return
        self.decoding = True
        for counts in self.counted:
            counts.requests_waiting -= 1
            counts.pending_prefill_tokens -= self.uncached_tokens
            counts.decode_tokens += request.prompt_tokens
        if request.blocks:
            self.memory.answered(self.replica.replica_id, request.blocks)

    def release(self, request: SimulatedRequest) -> None:
        """The request is over there."""
        for counts in self.counted:
            counts.requests_in_flight -= 1
            if self.decoding:
                counts.decode_tokens -= request.prompt_tokens
            else:
                counts.requests_waiting -= 1
                counts.pending_prefill_tokens -= self.uncached_tokens
        del self.replica.in_flight[request.index]


@dataclass(slots=True)
class StartingReplica:
    """A replica that is on its way."""

    replica_id: ReplicaId
    asked_at_s: float
    ready_at_s: float
    cancelled: bool = False


@dataclass(slots=True)
class SimulatedPool:
    """A pool: its replicas in all stages, and the energy and time of those that are gone."""

    name: PoolName
    config: PoolConfig
    performance: ReplicaPerformance
    placeable: int
    """Replicas that the hardware holds now."""
    wanted: int = 0
    prompt_limits: tuple[int, int | None] = (0, None)
    ready: list[SimulatedReplica] = field(default_factory=list)
    draining: list[SimulatedReplica] = field(default_factory=list)
    starting: list[StartingReplica] = field(default_factory=list)
    unplaced_since_s: float | None = None
    serial: int = 0
    gone_j: float = 0.0
    """Energy of replicas that are gone, and of starts that are over."""
    gone_replica_s: float = 0.0
    """Time that replicas existed which are gone, starts included."""
    gone_preemptions: int = 0
    gone_output_tokens: int = 0
    scale_ups: int = 0
    scale_downs: int = 0
    direction_changes: int = 0

    @property
    def existing(self) -> int:
        """Replicas that take up hardware."""
        return len(self.ready) + len(self.draining) + len(self.starting)

    def start_w(self) -> float:
        """Power of a replica that is starting."""
        performance = self.performance
        return performance.start_j / performance.start_s if performance.start_s > 0 else 0.0

    def energy_j(self, now_s: float) -> float:
        """Energy of all its replicas so far, starts included."""
        total = self.gone_j
        for replica in self.ready:
            total += replica.engine.meter.energy_j(now_s)
        for replica in self.draining:
            total += replica.engine.meter.energy_j(now_s)
        start_w = self.start_w()
        for starting in self.starting:
            total += start_w * (now_s - starting.asked_at_s)
        return total

    def output_tokens(self) -> int:
        """Tokens that its replicas have made so far."""
        alive = (*self.ready, *self.draining)
        return self.gone_output_tokens + sum(replica.engine.meter.output_tokens for replica in alive)

    def replica_s(self, now_s: float) -> float:
        """Time that its replicas existed, added up."""
        total = self.gone_replica_s
        for replica in (*self.ready, *self.draining):
            total += now_s - replica.started_at_s
        return total + sum(now_s - starting.asked_at_s for starting in self.starting)

    def observed_starting(self, wall_s: float) -> tuple[ReplicaObservation, ...]:
        """Replicas that exist and do not report yet."""
        return tuple(
            ReplicaObservation(
                replica_id=starting.replica_id,
                stage=ReplicaStage.STARTING,
                since_s=wall_s + starting.asked_at_s,
            )
            for starting in self.starting
        )

    def retire(self, replica: SimulatedReplica, now_s: float) -> None:
        """Book what a replica used and forget it."""
        self.gone_j += replica.engine.meter.energy_j(now_s)
        self.gone_replica_s += now_s - replica.started_at_s
        self.gone_preemptions += replica.engine.preemptions
        self.gone_output_tokens += replica.engine.meter.output_tokens
