"""The simulated routers: the live policies, with counters kept as the live routers keep them."""

import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from cluster.config import TidemillConfig
from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.pool import PoolName, ReplicaId, Role
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.admission import Verdict, shed
from cluster.policy.disaggregation import choose_path
from cluster.policy.routing.replicas.length_limits import pools_for_length
from cluster.policy.routing.replicas.memory import ReplicaMemory
from cluster.policy.routing.replicas.policies import choose_replica
from cluster.policy.routing.replicas.predicted import predicted_ttft_s
from cluster.simulation.fleet import Dispatch, SeenReplica, SimulatedPool, SimulatedReplica
from cluster.simulation.request import SimulatedRequest

Seen: TypeAlias = SimulatedReplica | SeenReplica


class _Router:
    """What one router knows by itself."""

    def __init__(self, config: ReplicaRoutingConfig, *, shared: bool) -> None:
        self.memory = ReplicaMemory(config, shared=shared)
        self.seen: dict[ReplicaId, SeenReplica] = {}


class SimulatedRouter:
    """The routers of the fleet and their common queue; each knows at once what it sent where itself."""

    def __init__(
        self,
        config: TidemillConfig,
        pools: Iterable[SimulatedPool],
        *,
        seed: int,
        block_tokens: int,
        routers: int = 1,
    ) -> None:
        """An empty table.

        Args:
            config: routing and gateway settings.
            pools: the fleet's pools.
            seed: of the chance that breaks ties.
            block_tokens: tokens in a block of the trace's prompts; 0 turns prefix affinity off.
            routers: how many there are.
        """
        self._config = config
        self._routing = config.routing.replicas
        self._chance = random.Random(seed).random
        self._block_tokens = block_tokens
        self._routers = [_Router(self._routing, shared=routers > 1) for _ in range(routers)]
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

    def exchange(self, now_s: float) -> None:
        """Every router hears what all have in flight, and what was computed where since the last time."""
        news = [router.memory.take_news() for router in self._routers]
        for place, router in enumerate(self._routers):
            for seen in router.seen.values():
                seen.look(now_s)
            for other, found in enumerate(news):
                if other != place:
                    router.memory.hear(found)

    def forget(self, replica: SimulatedReplica) -> None:
        """A replica is gone and its prefix cache with it."""
        for router in self._routers:
            router.memory.forget(replica.replica_id)
            router.seen.pop(replica.replica_id, None)

    def waiting(self, model: str) -> int:
        """Requests in the queue of a model."""
        return len(self.queues[model])

    def route(self, request: SimulatedRequest, now_s: float) -> bool:
        """Choose path and replicas and count the request in; False if none can take it now."""
        router = self._routers[request.index % len(self._routers)]
        prefilling = self._seen(router, self._prefilling[request.model], now_s)
        chosen, why = self._choose(
            router, request, self._seen(router, self._answering[request.model], now_s), now_s
        )
        if chosen is None and Reason.ALL_FULL not in why:
            # As in the live router: a prefill replica is a whole engine and answers as last resort.
            chosen, _ = self._choose(router, request, prefilling, now_s)
            if chosen is None:
                return False
        if chosen is None:
            return False
        request.path = Path.COMBINED
        prefill = self._prefill_for(router, request, chosen, prefilling, now_s)
        if prefill is not None:
            request.path = Path.DISAGGREGATED
            request.prefilling = self._take(router, prefill, request, now_s, computed_elsewhere=False)
        request.answering = self._take(router, chosen, request, now_s, computed_elsewhere=prefill is not None)
        request.attempts += 1
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

    def _seen(self, router: _Router, replicas: Sequence[SimulatedReplica], now_s: float) -> Sequence[Seen]:
        """The candidates as a router sees them."""
        if len(self._routers) == 1:
            for replica in replicas:
                replica.kv_cache_usage = replica.engine.kv_cache_usage_at(now_s)
            return replicas
        for replica in replicas:
            if replica.replica_id not in router.seen:
                router.seen[replica.replica_id] = SeenReplica(replica, now_s)
        return [router.seen[replica.replica_id] for replica in replicas]

    def _choose(
        self, router: _Router, request: SimulatedRequest, candidates: Sequence[Seen], now_s: float
    ) -> tuple[Seen | None, tuple[Reason, ...]]:
        limits = self._limits[request.model]
        if limits:
            pools = pools_for_length(request.prompt_tokens, limits)
            within = [seen for seen in candidates if seen.pool.name in pools]
            chosen, _ = self._by_policy(router, request, within, now_s)
            if chosen is not None:
                return chosen, ()
        return self._by_policy(router, request, candidates, now_s)

    def _by_policy(
        self, router: _Router, request: SimulatedRequest, candidates: Sequence[Seen], now_s: float
    ) -> tuple[Seen | None, tuple[Reason, ...]]:
        if self._block_tokens:
            prefixes = router.memory.prefixes
            for seen in candidates:
                blocks = prefixes.cached_blocks(seen.replica_id, request.blocks, now_s=now_s)
                seen.cached_tokens = min(blocks * self._block_tokens, request.prompt_tokens)
        choice = choose_replica(
            _signals(request),
            candidates,
            self._routing,
            now_s=now_s,
            draw=self._chance(),
            remembered=router.memory.recall((seen.replica_id for seen in candidates), now_s),
        )
        name = choice.replica_id
        if name is None:
            return None, choice.reasons
        return next(seen for seen in candidates if seen.replica_id == name), choice.reasons

    def _prefill_for(
        self,
        router: _Router,
        request: SimulatedRequest,
        chosen: Seen,
        prefilling: Sequence[Seen],
        now_s: float,
    ) -> Seen | None:
        if request.model not in self._split or chosen.role is not Role.DECODE:
            return None
        disaggregation = self._config.routing.disaggregation
        choice = choose_path(_signals(request), chosen, prefilling, disaggregation, now_s=now_s)
        if choice.path is not Path.DISAGGREGATED:
            return None
        return self._by_policy(router, request, prefilling, now_s)[0]

    def _take(
        self,
        router: _Router,
        seen: Seen,
        request: SimulatedRequest,
        now_s: float,
        *,
        computed_elsewhere: bool,
    ) -> Dispatch:
        uncached = 0 if computed_elsewhere else max(0, request.prompt_tokens - seen.cached_tokens)
        router.memory.sent(
            seen.replica_id,
            request.blocks if self._block_tokens else (),
            uncached_tokens=uncached,
            ttft_s=predicted_ttft_s(
                request.prompt_tokens, seen, assumed_tokens_per_s=self._routing.assumed_prefill_tokens_per_s
            ),
            now_s=now_s,
        )
        return Dispatch.take(seen, request, uncached, router.memory)


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
