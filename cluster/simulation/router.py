"""The simulated router: the live policies, with counters kept as the live router keeps them."""

import random
from collections import deque
from collections.abc import Iterable, Sequence

from cluster.config import TidemillConfig
from cluster.entities.pool import PoolName, ReplicaId, Role
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.admission import Verdict, shed
from cluster.policy.disaggregation import choose_path
from cluster.policy.routing.replicas.length_limits import pools_for_length
from cluster.policy.routing.replicas.min_work import choose_replica
from cluster.policy.routing.replicas.predicted import predicted_ttft_s
from cluster.policy.routing.replicas.prefix_index import PrefixIndex
from cluster.simulation.fleet import Dispatch, SimulatedPool, SimulatedReplica
from cluster.simulation.request import SimulatedRequest


class SimulatedRouter:
    """One router for the whole fleet; it knows at once what it sent where."""

    def __init__(
        self, config: TidemillConfig, pools: Iterable[SimulatedPool], *, seed: int, block_tokens: int
    ) -> None:
        """An empty table.

        Args:
            config: routing and gateway settings.
            pools: the fleet's pools.
            seed: of the chance that breaks ties.
            block_tokens: tokens in a block of the trace's prompts; 0 turns prefix affinity off.
        """
        self._config = config
        self._routing = config.routing.replicas
        self._chance = random.Random(seed).random
        self._block_tokens = block_tokens
        self._prefixes = PrefixIndex(self._routing.prefix_blocks_per_replica_max)
        self._pools = list(pools)
        self._answering: dict[str, list[SimulatedReplica]] = {}
        self._prefilling: dict[str, list[SimulatedReplica]] = {}
        self._limits: dict[str, dict[PoolName, tuple[int, int | None]]] = {}
        self._split = {model for model in config.models if config.is_split(model)}
        self.queues: dict[str, deque[SimulatedRequest]] = {model: deque() for model in config.models}
        """Requests that wait for a free replica, by model, oldest first."""
        self.refresh()

    def refresh(self) -> None:
        """Read the table of replicas anew: something joined, left, or takes longer or shorter prompts."""
        for model in self.queues:
            pools = [pool for pool in self._pools if pool.config.model == model]
            self._answering[model] = [
                replica for pool in pools if pool.config.role.answers for replica in pool.ready
            ]
            self._prefilling[model] = [
                replica for pool in pools if not pool.config.role.answers for replica in pool.ready
            ]
            limits = {pool.name: pool.prompt_limits for pool in pools if pool.config.role.answers}
            self._limits[model] = limits if any(limit != (0, None) for limit in limits.values()) else {}

    def forget(self, replica: SimulatedReplica) -> None:
        """A replica is gone and its prefix cache with it."""
        self._prefixes.forget(replica.replica_id)

    def waiting(self, model: str) -> int:
        """Requests in the queue of a model."""
        return len(self.queues[model])

    def route(self, request: SimulatedRequest, now_s: float) -> bool:
        """Choose path and replicas and count the request in; False if none can take it now."""
        chosen, why = self._choose(request, self._answering[request.model], now_s)
        if chosen is None and Reason.ALL_FULL not in why:
            # As in the live router: a prefill replica is a whole engine and answers as last resort.
            chosen, _ = self._choose(request, self._prefilling[request.model], now_s)
            if chosen is None:
                return False
        if chosen is None:
            return False
        request.path = Path.COMBINED
        prefill = self._prefill_for(request, chosen, now_s)
        if prefill is not None:
            request.path = Path.DISAGGREGATED
            request.prefilling = Dispatch.take(prefill, request, self._uncached(request, prefill))
            self._record(prefill.replica_id, request)
        uncached = 0 if prefill is not None else self._uncached(request, chosen)
        request.answering = Dispatch.take(chosen, request, uncached)
        request.attempts += 1
        self._record(chosen.replica_id, request)
        return True

    def too_late(self, request: SimulatedRequest) -> bool:
        """Whether admission turns away a request that has just been counted in (`gateway.shed_ttft_s`)."""
        if self._config.gateway.shed_ttft_s is None:
            return False
        first = request.prefilling or request.answering
        assert first is not None  # noqa: S101 - counted in means dispatched
        # Its own tokens are among the pending ones already.
        ttft_s = predicted_ttft_s(first.replica.cached_tokens, first.replica)
        return shed(ttft_s=ttft_s, config=self._config.gateway).verdict is Verdict.REJECT

    def _choose(
        self, request: SimulatedRequest, candidates: Sequence[SimulatedReplica], now_s: float
    ) -> tuple[SimulatedReplica | None, tuple[Reason, ...]]:
        limits = self._limits[request.model]
        if limits:
            pools = pools_for_length(request.prompt_tokens, limits)
            within = [replica for replica in candidates if replica.pool.name in pools]
            chosen, _ = self._least_work(request, within, now_s)
            if chosen is not None:
                return chosen, ()
        return self._least_work(request, candidates, now_s)

    def _least_work(
        self, request: SimulatedRequest, candidates: Sequence[SimulatedReplica], now_s: float
    ) -> tuple[SimulatedReplica | None, tuple[Reason, ...]]:
        for replica in candidates:
            replica.kv_cache_usage = replica.engine.kv_cache_usage_at(now_s)
        if self._block_tokens:
            for replica in candidates:
                blocks = self._prefixes.cached_blocks(replica.replica_id, request.blocks)
                replica.cached_tokens = min(blocks * self._block_tokens, request.prompt_tokens)
        choice = choose_replica(
            _signals(request), candidates, self._routing, now_s=now_s, draw=self._chance()
        )
        name = choice.replica_id
        if name is None:
            return None, choice.reasons
        return next(replica for replica in candidates if replica.replica_id == name), choice.reasons

    def _prefill_for(
        self, request: SimulatedRequest, chosen: SimulatedReplica, now_s: float
    ) -> SimulatedReplica | None:
        if request.model not in self._split or chosen.role is not Role.DECODE:
            return None
        prefilling = self._prefilling[request.model]
        choice = choose_path(
            _signals(request), chosen, prefilling, self._config.routing.disaggregation, now_s=now_s
        )
        if choice.path is not Path.DISAGGREGATED:
            return None
        return self._least_work(request, prefilling, now_s)[0]

    def _uncached(self, request: SimulatedRequest, replica: SimulatedReplica) -> int:
        return max(0, request.prompt_tokens - replica.cached_tokens)

    def _record(self, replica_id: ReplicaId, request: SimulatedRequest) -> None:
        if self._block_tokens:
            self._prefixes.record(replica_id, request.blocks)


def _signals(request: SimulatedRequest) -> RequestSignals:
    """What a router may know of a request: not how long its answer will be."""
    return RequestSignals(
        surface=Surface.CHAT,
        model=request.model,
        tenant="",
        prompt_tokens=request.prompt_tokens,
        stream=True,
        splittable=True,
    )
