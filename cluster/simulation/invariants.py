"""What must hold in the simulated world after every event."""

from cluster.simulation.fleet import SimulatedReplica
from cluster.simulation.world import World

_EPSILON_J = 1e-6


class InvariantError(AssertionError):
    """The simulated world contradicts itself: a defect of the simulator."""


class Invariants:
    """Checks a world; keeps what it needs to notice that something ran backwards."""

    def __init__(self, world: World) -> None:
        """Start from the world as it is."""
        self._world = world
        self._now_s = world.now_s
        self._energy_j = 0.0

    def check(self) -> None:
        """Check everything.

        Raises:
            InvariantError: naming what is wrong, and when.
        """
        world = self._world
        self._that(world.now_s >= self._now_s, f"time ran back from {self._now_s}")
        self._now_s = world.now_s
        energy_j = sum(pool.energy_j(world.now_s) for pool in world.pools.values())
        self._that(
            energy_j >= self._energy_j - _EPSILON_J, f"energy fell from {self._energy_j} to {energy_j}"
        )
        self._energy_j = energy_j
        self._nothing_is_lost()
        for pool in world.pools.values():
            self._that(pool.wanted >= 0, f"{pool.name} wants {pool.wanted} replicas")
            for replica in (*pool.ready, *pool.draining):
                self._replica(replica)

    def _nothing_is_lost(self) -> None:
        world = self._world
        queued = sum(len(queue) for queue in world.router.queues.values())
        held = {
            index
            for pool in world.pools.values()
            for replica in (*pool.ready, *pool.draining)
            for index in replica.in_flight
        }
        self._that(
            world.in_flight == queued + len(held),
            f"{world.in_flight} requests in flight, but {queued} queued and {len(held)} on replicas",
        )

    def _replica(self, replica: SimulatedReplica) -> None:
        engine, name = replica.engine, replica.replica_id
        kv = engine.kv
        self._that(0 <= kv.used <= kv.blocks_max, f"{name} uses {kv.used} of {kv.blocks_max} blocks")
        self._that(replica.pending_prefill_tokens >= 0, f"{name}: pending prefill below zero")
        self._that(replica.requests_waiting >= 0, f"{name}: requests without a first token below zero")
        self._that(replica.decode_tokens >= 0, f"{name}: decode tokens below zero")
        self._that(
            replica.requests_in_flight == len(replica.in_flight),
            f"{name}: {replica.requests_in_flight} counted, {len(replica.in_flight)} in flight",
        )
        contexts = sum(
            request.computed_tokens + kv.step - request.joined_step for request in engine.decoders.values()
        )
        self._that(
            contexts == engine.context_tokens, f"{name}: context {engine.context_tokens}, not {contexts}"
        )
        decoding = sum(
            kv.of(request.computed_tokens + kv.step - request.joined_step)
            for request in engine.decoders.values()
        )
        self._that(decoding <= kv.used, f"{name}: decoding takes {decoding} blocks, {kv.used} counted")
        idle = not engine.active and (engine.waiting or engine.decoders)
        self._that(not idle or kv.used > 0, f"{name} has work, free memory and does nothing")

    def _that(self, holds: bool, what: str) -> None:
        if not holds:
            raise InvariantError(f"at {self._world.now_s:.6f} s: {what}")
