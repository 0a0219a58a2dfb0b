"""What the nodes have learnt of their adapters, put together for one router's choices.

Nodes tell each other what they saw, through the coordinator, but not at once and not while it is away. So of
each adapter the estimate counts that is surest, whichever node has it; of adapters that nobody has seen, the
prior utility.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.config.paging import PagingConfig
from cluster.entities.adapters import AdapterCard
from cluster.entities.pool import ReplicaId
from cluster.policy.paging.interface import Numbers
from cluster.policy.paging.statistics import Estimates
from deployments.adapter_messages import LearnedState


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedStates:
    """Estimates of a model's adapters in the order of its cards, and each node's prices for them."""

    estimates: Estimates
    prices: dict[ReplicaId, Numbers]
    assumed_prices: Numbers
    """Of nodes that have said nothing."""
    forced: dict[ReplicaId, int]
    """By node, the row of the adapter that it wants something learnt of."""
    versions: dict[ReplicaId, str]

    def lowest_prices(self, replicas: Collection[ReplicaId]) -> Numbers:
        """Of each adapter, on the node of these where its page-in costs least."""
        found = [self.prices.get(replica, self.assumed_prices) for replica in replicas]
        return np.minimum.reduce(found) if found else self.assumed_prices

    def wanted(self, replicas: Collection[ReplicaId]) -> int | None:
        """The row of an adapter that one of these nodes wants something learnt of."""
        return next((self.forced[replica] for replica in sorted(replicas) if replica in self.forced), None)


class LearnedStates:
    """The latest state of every node."""

    def __init__(self, config: PagingConfig) -> None:
        self._config = config
        self._states: dict[ReplicaId, LearnedState] = {}
        self._joined: dict[str, tuple[object, JoinedStates]] = {}

    @property
    def heard(self) -> int:
        """Nodes whose state is here."""
        return len(self._states)

    def version(self, replica: ReplicaId) -> str | None:
        """Of a node's state; None before it was heard of."""
        state = self._states.get(replica)
        return None if state is None else state.version

    def take(self, replica: ReplicaId, state: LearnedState) -> None:
        """Take what a node has learnt; another dimension's is passed over (a configuration is changing)."""
        if state.estimates.theta.shape[1] == self._config.dimension:
            self._states[replica] = state

    def keep(self, replicas: Collection[ReplicaId]) -> None:
        """Forget all other nodes. What they alone had learnt is with the coordinator, or lost."""
        self._states = {name: state for name, state in self._states.items() if name in replicas}

    def joined(
        self,
        model: str,
        cards: Sequence[AdapterCard],
        catalogue_version: int,
        replicas: Collection[ReplicaId],
    ) -> JoinedStates:
        """The states of a model's nodes together; made anew only when one of them has changed."""
        known = {name: self._states[name] for name in sorted(replicas) if name in self._states}
        shas = tuple(card.sha256 for card in cards)
        stamp = (catalogue_version, shas, tuple((name, state.version) for name, state in known.items()))
        before = self._joined.get(model)
        if before is None or before[0] != stamp:
            before = self._joined[model] = (stamp, self._join(cards, known))
        return before[1]

    def _join(self, cards: Sequence[AdapterCard], known: dict[ReplicaId, LearnedState]) -> JoinedStates:
        config, d = self._config, self._config.dimension
        n = len(cards)
        rows = {card.sha256: row for row, card in enumerate(cards) if card.sha256}
        prior = np.array([card.prior_utility for card in cards], dtype=np.float64)
        theta, inverse = np.zeros((n, d)), np.tile(np.eye(d) / config.regularisation, (n, 1, 1))
        doubt = np.full(n, d / config.regularisation)
        sizes = np.array([card.bytes or config.page_in_bytes for card in cards], dtype=np.float64)
        assumed = config.utility_per_s * config.page_in_s * sizes / config.page_in_bytes
        prices: dict[ReplicaId, Numbers] = {}
        forced: dict[ReplicaId, int] = {}
        for replica, state in known.items():
            mine = np.array([rows.get(key, -1) for key in state.estimates.keys], dtype=np.intp)
            theirs = np.flatnonzero(mine >= 0)
            mine = mine[theirs]
            prices[replica] = assumed.copy()
            prices[replica][mine] = state.prices[theirs]
            traces = np.trace(state.estimates.inverse[theirs], axis1=1, axis2=2)
            surer = traces < doubt[mine]
            into, source = mine[surer], theirs[surer]
            doubt[into] = traces[surer]
            theta[into], inverse[into] = state.estimates.theta[source], state.estimates.inverse[source]
            prior[into] = state.estimates.prior[source]
            if state.forced in rows:
                forced[replica] = rows[state.forced]
        keys = tuple(card.name for card in cards)
        return JoinedStates(
            estimates=Estimates(keys=keys, prior=prior, theta=theta, inverse=inverse),
            prices=prices,
            assumed_prices=assumed,
            forced=forced,
            versions={replica: state.version for replica, state in known.items()},
        )
