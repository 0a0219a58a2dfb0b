"""Chooses the adapter of a request that leaves it open: what nodes have learnt, less what a page-in costs."""

from collections.abc import Callable, Collection

import numpy as np

from cluster.config.adapters import AdaptersConfig
from cluster.entities.adapter_routing import AdapterCandidate, AdapterDecision
from cluster.entities.adapters import AdapterCard, AdapterTier
from cluster.entities.pool import ReplicaId
from cluster.policy.paging.context import context_vector
from cluster.policy.paging.interface import Numbers
from cluster.policy.paging.routers import RouteDecision, route
from cluster.policy.paging.statistics import Scored
from deployments.router.adapters.names import AdapterNames
from deployments.router.adapters.states import LearnedStates

_TIERS = list(AdapterTier)


class AdapterChooser:
    """The choice of one router."""

    def __init__(
        self,
        config: AdaptersConfig,
        names: AdapterNames,
        states: LearnedStates,
        *,
        draw: Callable[[], float],
    ) -> None:
        self._config = config
        self._names = names
        self._states = states
        self._draw = draw

    def named(self, asked: str, adapter: str, usable: Collection[ReplicaId]) -> AdapterDecision:
        """What there is to say where nothing is chosen."""
        card = self._names.card(adapter)
        return AdapterDecision(
            asked=asked,
            named=True,
            adapter=adapter,
            sha256="" if card is None else card.sha256,
            tier=self._nearest(adapter, usable),
            catalogue_version=self._names.catalogue.version,
        )

    def choose(
        self, asked: str, model: str, embedding: Collection[float], usable: Collection[ReplicaId]
    ) -> AdapterDecision:
        """Choose one of a model's adapters; none, which is the base model, where there is no adapter.

        Args:
            asked: the name under which the adapter was left open.
            model: the base model.
            embedding: of what the user said last; empty if it was not read.
            usable: the replicas that could answer now.
        """
        cards, version = self._names.cards(model), self._names.catalogue.version
        if not cards:
            return AdapterDecision(asked=asked, named=False, adapter="", catalogue_version=version)
        paging = self._config.paging
        x = context_vector(tuple(embedding), paging.dimension)
        joined = self._states.joined(model, cards, version, usable)
        scored = joined.estimates.scored(x)
        prices = joined.lowest_prices(usable)
        draw = self._draw()
        decision = route(scored, prices, paging, draw=draw, forced=joined.wanted(usable))
        chosen = cards[decision.row]
        return AdapterDecision(
            asked=asked,
            named=False,
            adapter=chosen.name,
            sha256=chosen.sha256,
            policy=paging.router,
            score=decision.score,
            bonus=decision.bonus,
            price=decision.price,
            tier=self._nearest(chosen.name, usable),
            explored=bool(decision.explored),
            propensity=float(decision.propensity),
            draw=draw,
            x=tuple(x.tolist()),
            text_read=bool(embedding),
            states={str(replica): known for replica, known in joined.versions.items()},
            catalogue_version=version,
            candidates=self._candidates(cards, scored, prices, decision, usable),
        )

    def _candidates(
        self,
        cards: tuple[AdapterCard, ...],
        scored: Scored,
        prices: Numbers,
        decision: RouteDecision,
        usable: Collection[ReplicaId],
    ) -> tuple[AdapterCandidate, ...]:
        """The best ones and the chosen one, for the log."""
        paging = self._config.paging
        bonus = paging.alpha * scored.width
        share = {"aware": 1.0, "amortised": paging.rho}.get(paging.router, 0.0)
        worth = scored.mean + bonus - share * prices
        best = np.argsort(-worth, kind="stable")[: self._config.fleet.candidates_logged_max].tolist()
        rows = best if decision.row in best else [*best[:-1], decision.row]
        return tuple(
            AdapterCandidate(
                name=cards[row].name,
                utility=float(scored.mean[row]),
                bonus=float(bonus[row]),
                price=float(prices[row]),
                tier=self._nearest(cards[row].name, usable),
            )
            for row in rows
        )

    def _nearest(self, adapter: str, usable: Collection[ReplicaId]) -> AdapterTier:
        """The tier nearest to an engine on any of these replicas."""
        found = [
            _TIERS.index(tier)
            for report, tier, _ in self._names.residency(adapter)
            if report.replica_id in usable
        ]
        return _TIERS[max(found, default=0)]
