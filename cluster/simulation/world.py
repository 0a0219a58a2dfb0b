"""The event loop of the simulated fleet.

Virtual time jumps from event to event: arrivals, ends of engine segments, hand-overs of KV cache, replicas
that become ready, decisions of the provisioner, faults. Equal times are taken in the order in which they were
scheduled, so a run is a function of its scenario.
"""

import heapq
import math
from collections.abc import Callable
from typing import Any

from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase
from cluster.entities.routing import Path
from cluster.performance.profiles import pool_performance
from cluster.performance.transfer import kv_transfer_s
from cluster.policy.observation import DemandTally
from cluster.simulation.engine import VirtualEngine
from cluster.simulation.fleet import SimulatedPool, SimulatedReplica, StartingReplica
from cluster.simulation.request import SimulatedRequest
from cluster.simulation.router import SimulatedRouter
from cluster.simulation.scenario import Scenario

_Handler = Callable[..., None]


class World:
    """Pools, router, requests and the clock."""

    def __init__(self, scenario: Scenario) -> None:
        """The fleet at its initial sizes, ready, before the first arrival."""
        self.scenario = scenario
        self.config = scenario.config
        self.now_s = 0.0
        self.wall_s = scenario.started_at_unix_s
        self._heap: list[tuple[float, int, _Handler, Any]] = []
        self._serial = 0
        block_tokens = max((trace.block_tokens for trace in scenario.traces.values()), default=0)
        self._block_tokens = block_tokens
        self.pools: dict[str, SimulatedPool] = {
            name: SimulatedPool(
                name=PoolName(name),
                config=pool,
                performance=scenario.performance.get(name)
                or pool_performance(pool, self.config.models[pool.model]),
                placeable=pool.replicas.max,
                wanted=pool.replicas.start,
            )
            for name, pool in sorted(self.config.pools.items())
        }
        self.router = SimulatedRouter(
            self.config,
            self.pools.values(),
            seed=scenario.seed,
            block_tokens=block_tokens,
            routers=scenario.routers,
        )
        self.tally = DemandTally(self.config)
        self.requests: list[SimulatedRequest] = []
        """Every request that has arrived, in that order."""
        self.completed = self.failed = self.rejected = 0
        self.handed_over = 0
        """Requests whose KV cache is on its way."""
        self.events = 0
        for pool in self.pools.values():
            for _ in range(pool.wanted):
                self._add_ready(pool)
        self.router.refresh()
        if scenario.routers > 1:
            self.at(scenario.snapshot_s, self._exchange)
        self._arrivals = self._merged_arrivals()
        self._next_arrival = 0
        self._on_event: Callable[[], None] | None = None

    # Time

    def at(self, at_s: float, handler: _Handler, argument: Any = None) -> None:
        """Call a handler at an instant."""
        self._serial += 1
        heapq.heappush(self._heap, (at_s, self._serial, handler, argument))

    def watch(self, on_event: Callable[[], None]) -> None:
        """Call something after every event."""
        self._on_event = on_event

    @property
    def last_arrival_s(self) -> float:
        """When the last request arrives."""
        return self._arrivals[-1][0] if self._arrivals else 0.0

    @property
    def in_flight(self) -> int:
        """Requests that have arrived and are not over."""
        return len(self.requests) - self.completed - self.failed - self.rejected

    @property
    def done(self) -> bool:
        """Everything has arrived and nothing is in flight."""
        return self._next_arrival >= len(self._arrivals) and not self.in_flight

    def run(self, until: Callable[[], bool]) -> None:
        """Take events until the condition holds or there are none left."""
        heap, arrivals = self._heap, self._arrivals
        count, on_event = len(arrivals), self._on_event
        pop = heapq.heappop
        while not until():
            index = self._next_arrival
            arrival_s = arrivals[index][0] if index < count else math.inf
            if heap and heap[0][0] < arrival_s:
                self.now_s, _, handler, argument = pop(heap)
                handler(argument)
            elif index < count:
                self._next_arrival = index + 1
                self.now_s = arrival_s
                self._arrive(arrivals[index])
            else:
                return
            self.events += 1
            if on_event is not None:
                on_event()

    def _exchange(self, _: object) -> None:
        """The routers tell each other what they have in flight."""
        self.router.exchange(self.now_s)
        if not self.done:
            self.at(self.now_s + self.scenario.snapshot_s, self._exchange)

    # Requests

    def _merged_arrivals(self) -> list[tuple[float, str, int, int, tuple[int, ...]]]:
        merged: list[tuple[float, str, int, int, tuple[int, ...]]] = []
        for model, trace in sorted(self.scenario.traces.items()):
            blocks = trace.blocks or ((),) * len(trace)
            merged += zip(
                trace.arrival_s.tolist(),
                (model,) * len(trace),
                trace.prompt_tokens.tolist(),
                trace.output_tokens.tolist(),
                blocks,
                strict=True,
            )
        if len(self.scenario.traces) > 1:
            merged.sort(key=lambda arrival: arrival[0])
        return merged

    def _arrive(self, arrival: tuple[float, str, int, int, tuple[int, ...]]) -> None:
        at_s, model, prompt_tokens, output_tokens, blocks = arrival
        request = SimulatedRequest(
            len(self.requests), model, at_s, prompt_tokens, output_tokens, blocks=blocks
        )
        self.requests.append(request)
        self.tally.arrived(model, prompt_tokens)
        queue = self.router.queues[model]
        if queue or not self._dispatch(request):
            request.queued_at_s = at_s
            queue.append(request)

    def _dispatch(self, request: SimulatedRequest) -> bool:
        if not self.router.route(request, self.now_s):
            return False
        answering = request.answering
        assert answering is not None  # noqa: S101 - route says so
        if self.router.too_late(request):
            self._reject(request)
            return True
        if not answering.replica.engine.can_ever_hold(request):
            self._reject(request)
            return True
        if request.prefilling is not None:
            if request.prefilling.replica.engine.can_ever_hold(request):
                self._submit(request.prefilling.replica, request)
                return True
            self._compute_where_answered(request)
            return True
        self._submit(answering.replica, request)
        return True

    def _compute_where_answered(self, request: SimulatedRequest) -> None:
        """The prompt comes with no ticket after all."""
        answering = request.answering
        assert answering is not None  # noqa: S101 - only dispatched requests come here
        if request.prefilling is not None:
            request.prefilling.release(request)
            request.prefilling = None
        request.path = Path.COMBINED
        request.computed_tokens = request.cached_tokens = 0
        answering.recompute(request.prompt_tokens)
        self._submit(answering.replica, request)

    def _submit(self, replica: SimulatedReplica, request: SimulatedRequest) -> None:
        engine = replica.engine
        if engine.submit(request, self.now_s):
            self.at(engine.segment.ends_at_s, self._segment_ended, (replica, engine.version))
        elif not engine.active:
            self._begin(replica)

    def _begin(self, replica: SimulatedReplica) -> None:
        engine = replica.engine
        if engine.begin(self.now_s):
            self.at(engine.segment.ends_at_s, self._segment_ended, (replica, engine.version))

    def _segment_ended(self, which: tuple[SimulatedReplica, int]) -> None:
        replica, version = which
        engine = replica.engine
        if engine.version != version:
            return
        ended = engine.end(self.now_s)
        for request in ended.first_tokens:
            if request.answering is not None:
                request.answering.first_token(request)
        # The engine plans its next steps before the router can send it more: a request that arrives at a step
        # boundary joins with the step after it, as over a network.
        self._begin(replica)
        for request in ended.prefilled:
            self.handed_over += 1
            seconds = kv_transfer_s(engine.performance, request.prompt_tokens)
            self.at(self.now_s + seconds, self._handed_over, (request, request.attempts))
        for request in ended.finished:
            self._complete(request)
        if ended.finished:
            self.serve_queue(replica.pool.config.model)
            if replica.phase is ReplicaPhase.DRAINING:
                self.retire_if_drained(replica)

    def _handed_over(self, which: tuple[SimulatedRequest, int]) -> None:
        request, attempt = which
        if request.attempts != attempt or request.prefilling is None or request.answering is None:
            return
        prefill = request.prefilling.replica
        self.handed_over -= 1
        prefill.engine.release(request)
        request.prefilling.first_token(request)
        request.prefilling.release(request)
        request.prefilling = None
        if not prefill.engine.active:
            self._begin(prefill)
        self._submit(request.answering.replica, request)
        self.serve_queue(request.model)
        if prefill.phase is ReplicaPhase.DRAINING:
            self.retire_if_drained(prefill)

    def _complete(self, request: SimulatedRequest) -> None:
        if request.answering is not None:
            request.answering.release(request)
            request.answering = None
        self.completed += 1
        slo = self.config.models[request.model].slo
        self.tally.completed(
            request.model,
            request.prompt_tokens,
            request.cached_tokens,
            request.output_tokens,
            slo_met=request.ttft_s <= slo.ttft_s and request.tpot_s <= slo.tpot_s,
        )

    def _reject(self, request: SimulatedRequest) -> None:
        for dispatch in (request.answering, request.prefilling):
            if dispatch is not None:
                dispatch.release(request)
        request.answering = request.prefilling = None
        request.failed = True
        self.rejected += 1

    def serve_queue(self, model: str) -> None:
        """Dispatch what waits, first come first served, and give up what has waited too long."""
        queue = self.router.queues[model]
        limit_s = self.config.gateway.queue_timeout_s
        while queue:
            if self.now_s - queue[0].queued_at_s > limit_s:
                self._reject(queue.popleft())
            elif self._dispatch(queue[0]):
                queue.popleft()
            else:
                return

    # Replicas

    def _add_ready(self, pool: SimulatedPool) -> SimulatedReplica:
        pool.serial += 1
        engine = VirtualEngine(
            pool.performance,
            now_s=self.now_s,
            hands_over=not pool.config.role.answers,
            trace_block_tokens=self._block_tokens,
            single_steps=self.scenario.single_steps,
        )
        replica = SimulatedReplica(ReplicaId(f"{pool.name}-{pool.serial:05d}"), pool, engine, self.now_s)
        pool.ready.append(replica)
        return replica

    def start_replica(self, pool: SimulatedPool) -> None:
        """Ask for one more replica; it is ready when its start is over."""
        pool.serial += 1
        starting = StartingReplica(
            ReplicaId(f"{pool.name}-{pool.serial:05d}"), self.now_s, self.now_s + pool.performance.start_s
        )
        pool.starting.append(starting)
        self.at(starting.ready_at_s, self._started, (pool, starting))

    def _started(self, which: tuple[SimulatedPool, StartingReplica]) -> None:
        pool, starting = which
        if starting.cancelled:
            return
        pool.starting.remove(starting)
        self._book_start(pool, starting)
        self._add_ready(pool)
        self.router.refresh()
        self.serve_queue(pool.config.model)

    def cancel_start(self, pool: SimulatedPool, starting: StartingReplica) -> None:
        """Give up a replica that is not ready yet."""
        starting.cancelled = True
        pool.starting.remove(starting)
        self._book_start(pool, starting)

    def _book_start(self, pool: SimulatedPool, starting: StartingReplica) -> None:
        elapsed_s = self.now_s - starting.asked_at_s
        pool.gone_j += pool.start_w() * elapsed_s
        pool.gone_replica_s += elapsed_s

    def drain(self, replica: SimulatedReplica) -> None:
        """Take a replica out of routing; it finishes what it has and goes."""
        pool = replica.pool
        pool.ready.remove(replica)
        pool.draining.append(replica)
        replica.phase = ReplicaPhase.DRAINING
        replica.since_s = self.now_s
        self.router.refresh()
        self.retire_if_drained(replica)

    def retire_if_drained(self, replica: SimulatedReplica) -> None:
        """A draining replica with nothing in flight is gone."""
        if not replica.in_flight and replica in replica.pool.draining:
            replica.pool.draining.remove(replica)
            replica.pool.retire(replica, self.now_s)
            self.router.forget(replica)

    def kill(self, replica: SimulatedReplica) -> None:
        """A replica dies: streams that have begun on it fail, the rest is tried elsewhere."""
        pool = replica.pool
        stage = pool.ready if replica in pool.ready else pool.draining
        stage.remove(replica)
        replica.engine.fail(self.now_s)
        pool.retire(replica, self.now_s)
        replica.phase = ReplicaPhase.DRAINING
        self.router.refresh()
        self.router.forget(replica)
        for request in sorted(replica.in_flight.values(), key=lambda lost: lost.index):
            self._lost(request, replica)

    def _lost(self, request: SimulatedRequest, replica: SimulatedReplica) -> None:
        answering, prefilling = request.answering, request.prefilling
        if prefilling is not None and prefilling.replica is replica and answering is not None:
            if request.computed_tokens >= request.prompt_tokens:
                self.handed_over -= 1
            request.attempts += 1  # voids a hand-over that is on its way
            self._compute_where_answered(request)
            return
        if prefilling is not None:
            # Its prompt is being computed elsewhere; it is asked for anew with another replica.
            self._withdraw(request)
        if answering is not None:
            answering.release(request)
            request.answering = None
        request.epoch += 1
        if request.first_token_at_s >= 0.0:
            request.failed = True
            self.failed += 1
            return
        request.computed_tokens = request.cached_tokens = request.produced_tokens = 0
        request.queued_at_s = self.now_s
        self.router.queues[request.model].appendleft(request)
        self.serve_queue(request.model)

    def _withdraw(self, request: SimulatedRequest) -> None:
        """Take a request back from the prefill replica that works on it."""
        prefilling = request.prefilling
        assert prefilling is not None  # noqa: S101 - the caller has looked
        if request.computed_tokens >= request.prompt_tokens:
            self.handed_over -= 1
            prefilling.replica.engine.release(request)
        else:
            prefilling.replica.engine.abort(request)
        prefilling.release(request)
        request.prefilling = None
