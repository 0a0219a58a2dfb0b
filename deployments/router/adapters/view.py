"""Adapters as one router sees them: catalogue, what nodes have learnt, choices, and judgements on their way.

Everything a request needs is here already when it comes: nodes are asked in the background, and neither they
nor the coordinator are waited for.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import aiohttp
import orjson

from cluster.config import TidemillConfig
from cluster.entities.adapter_routing import AdapterAnswer, AdapterDecision
from cluster.entities.decision import DecisionRecord
from cluster.entities.model_routing import FeedbackSource
from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaReport
from cluster.metrics import adapters_fleet as metrics
from cluster.replay import DecisionLogError, from_json
from deployments.adapter_messages import LEARNED_PATH, LearnedState
from deployments.messages import (
    ADAPTER_CONTEXT,
    ADAPTER_EXPLORED,
    ADAPTER_OPEN,
    ADAPTER_SERVED,
    ADAPTER_TIER,
    ADAPTER_WAIT,
    FleetState,
    vector_to_header,
)
from deployments.model_learning.state import Feedback, FeedbackResult
from deployments.router.adapters.choice import AdapterChooser
from deployments.router.adapters.names import AdapterNames
from deployments.router.adapters.outcomes import AdapterOutcomes
from deployments.router.adapters.states import LearnedStates
from deployments.router.fleet.view import FleetPicture
from deployments.router.metrics.counters import RouterMetrics
from deployments.router.wire.errors import ApiError
from deployments.router.wire.requests import AskedAdapter

logger = logging.getLogger("tidemill.router.adapters")


class Adapters:
    """Part of the router's core where any pool has adapters."""

    def __init__(
        self,
        config: TidemillConfig,
        picture: FleetPicture,
        router_metrics: RouterMetrics,
        *,
        session: Callable[[], aiohttp.ClientSession],
        find_decision: Callable[[str], Awaitable[bytes | None]],
        now_s: Callable[[], float],
        wall_s: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        """Start from the configured catalogue and prior utilities.

        Args:
            config: of the cluster.
            picture: of the fleet.
            router_metrics: what counts.
            session: for HTTP to the nodes.
            find_decision: a logged decision's JSON.
            now_s: the router's clock.
            wall_s: Unix time.
            draw: chance in [0, 1).
        """
        self._config = config
        self._picture = picture
        self._metrics = router_metrics
        self._session = session
        self._find_decision = find_decision
        self._now_s = now_s
        self._wall_s = wall_s
        self.names = AdapterNames(config)
        self.pools = adapter_pools(config)
        self._states = LearnedStates(config.adapters.paging)
        self._chooser = AdapterChooser(config.adapters, self.names, self._states, draw=draw)
        self.outcomes = AdapterOutcomes(
            config.routing.learning,
            nodes=self.nodes,
            session=session,
            find_record=self._find_record,
            now_s=wall_s,
            on_drop=router_metrics.get(metrics.ADAPTER_OUTCOMES_DROPPED).inc,
            on_delivered=router_metrics.get(metrics.ADAPTER_FEEDBACK_DELAY).observe,
        )
        self.asked_for: Counter[str] = Counter()
        """Requests for each adapter since the router started."""
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin asking nodes what they have learnt, and bringing them judgements."""
        self.outcomes.start()
        self._watch = asyncio.create_task(self._ask_for_ever())

    async def close(self) -> None:
        """Stop."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self.outcomes.close()

    def apply(self, fleet: FleetState) -> None:
        """Take a new picture of the fleet."""
        self.names.apply(fleet.adapters, fleet.replicas)
        for gone in [name for name in self.asked_for if self.names.card(name) is None]:
            del self.asked_for[gone]
        self._states.keep({report.replica_id for report in fleet.replicas})
        self._show()

    def _show(self) -> None:
        """Bring the gauges up to date."""
        known = [node for model in self.names.bases for node in self.nodes(model)]
        gauge = self._metrics.get
        gauge(metrics.ADAPTER_NODES).labels("known").set(len(known))
        gauge(metrics.ADAPTER_NODES).labels("heard").set(self._states.heard)
        for model in self.names.bases:
            gauge(metrics.ADAPTER_CATALOGUE).labels(model).set(len(self.names.cards(model)))
        published = self.names.published
        if published is None:
            return
        gauge(metrics.ADAPTER_COORDINATOR_AGE).set(max(0.0, self._wall_s() - published.at_s))
        reached = sum(not node.error for node in published.nodes)
        gauge(metrics.ADAPTER_NODES_AWAY).labels("reached").set(reached)
        gauge(metrics.ADAPTER_NODES_AWAY).labels("away").set(len(published.nodes) - reached)
        models = {node.replica_id: node.model for node in known}
        for model in self.names.bases:
            copies = sum(len(n.placed) for n in published.nodes if models.get(n.replica_id) == model)
            gauge(metrics.ADAPTER_PLACED_COPIES).labels(model).set(copies)

    def asked(self, name: str) -> AskedAdapter | None:
        """See `AdapterNames.asked`."""
        try:
            return self.names.asked(name)
        except ApiError:
            self._metrics.get(metrics.ADAPTER_UNKNOWN).inc()
            raise

    def nodes(self, model: str) -> list[ReplicaReport]:
        """The replicas of a model that have adapters."""
        return [report for report in self._picture.reports(model) if report.pool in self.pools]

    def decide(self, asked: str, found: AskedAdapter, embedding: Collection[float]) -> AdapterDecision:
        """Choose an adapter, or say what was named."""
        usable = self._usable(found.model)
        count = self._metrics.get(metrics.ADAPTER_ASKED)
        if found.adapter:
            count.labels(found.model, "named").inc()
            self.asked_for[found.adapter] += 1
            return self._chooser.named(asked, found.adapter, usable)
        decision = self._chooser.choose(asked, found.model, embedding, usable)
        count.labels(found.model, "explored" if decision.explored else "best").inc()
        self.asked_for[decision.adapter] += bool(decision.adapter)
        self._metrics.get(metrics.ADAPTER_PRICE).observe(decision.price)
        if not decision.states:
            self._metrics.get(metrics.ADAPTER_STATE_MISSING).inc()
        return decision

    def _usable(self, model: str) -> frozenset[ReplicaId]:
        """Replicas that could answer now; where all are busy, those that are there."""
        now_s = self._now_s()
        ready = [n for n in self.nodes(model) if n.phase is ReplicaPhase.READY and n.role.answers]
        free = [node for node in ready if self._picture.has_room(node.replica_id, now_s=now_s)]
        return frozenset(node.replica_id for node in free or ready or self.nodes(model))

    def headers(self, decision: AdapterDecision | None, *, may_differ: bool) -> dict[str, str]:
        """What a replica's pager should know of a request.

        Args:
            decision: how its adapter was found.
            may_differ: whether another adapter could still answer.
        """
        if decision is None or decision.named:
            return {}
        found = {ADAPTER_OPEN: "1"} if may_differ else {}
        if decision.x:
            found[ADAPTER_CONTEXT] = vector_to_header(decision.x)
        return found | ({ADAPTER_EXPLORED: "1"} if decision.explored else {})

    def answered(self, headers: Mapping[str, str]) -> AdapterAnswer | None:
        """What a replica said of the adapter that answers; None if it said nothing."""
        served = headers.get(ADAPTER_SERVED)
        if served is None:
            return None
        card = self.names.card(served)
        waited = headers.get(ADAPTER_WAIT, "")
        try:
            waited_s = float(waited or 0.0)
        except ValueError:
            waited_s = 0.0
        return AdapterAnswer(
            adapter=served,
            sha256="" if card is None else card.sha256,
            tier=headers.get(ADAPTER_TIER, ""),
            waited_s=waited_s,
        )

    async def judge(self, feedback: Feedback) -> FeedbackResult | None:
        """Bring a judgement to the node that answered; None if no adapter was chosen for the answer.

        Raises:
            ApiError: 503, no node takes it.
        """
        result = await self.outcomes.judge(feedback)
        if result is not None:
            self._count(feedback.source, result)
        return result

    def _count(self, source: FeedbackSource, result: FeedbackResult) -> None:
        self._metrics.get(metrics.ADAPTER_JUDGEMENTS).labels(source.value, result.value).inc()

    async def _find_record(self, decision_id: str) -> DecisionRecord | None:
        found = await self._find_decision(decision_id)
        if found is None:
            return None
        try:
            return from_json(orjson.loads(found))
        except (DecisionLogError, orjson.JSONDecodeError):
            return None  # written by another version

    async def _ask_for_ever(self) -> None:
        fleet = self._config.adapters.fleet
        while True:
            nodes = [node for model in self.names.bases for node in self.nodes(model)]
            await asyncio.gather(*(self._ask(node, fleet.node_timeout_s) for node in nodes))
            await asyncio.sleep(fleet.learned_period_s)

    async def _ask(self, node: ReplicaReport, timeout_s: float) -> None:
        version = self._states.version(node.replica_id)
        headers = {} if version is None else {"if-none-match": f'"{version}"'}
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session().get(
                node.url + LEARNED_PATH, headers=headers, timeout=timeout
            ) as response:
                if response.status != 200:
                    return
                content: Any = orjson.loads(await response.read())
            self._states.take(node.replica_id, LearnedState.from_json(content))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s does not say what it has learnt: %s", node.replica_id, error)


def adapter_pools(config: TidemillConfig) -> frozenset[PoolName]:
    """Pools whose replicas have adapters."""
    return frozenset(PoolName(name) for name, pool in config.pools.items() if pool.adapters is not None)
