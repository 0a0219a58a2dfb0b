"""Nearest clusters of embeddings, each with its own ranking of the models: Avengers-Pro without its offline
step.

Avengers-Pro (arXiv 2508.12631) clusters unit-length embeddings by k-means, measures every model in every
cluster and weighs the nearest clusters of a prompt by a softmax over similarities. So here; but qualities
stay in points of quality instead of being rescaled within each cluster, so that goals and budgets mean the
same as elsewhere. Without a warm start the first distinct embeddings become the clusters and follow what
comes near them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.config.model_routing import ClusterConfig, ModelRoutingConfig
from cluster.entities.model_routing import ModelSignals
from cluster.policy.routing.models.linear import highest
from cluster.policy.routing.models.scored import Example, Expected
from cluster.policy.routing.models.state_json import array, entry

Numbers = NDArray[np.float64]

_ROUNDS_MAX = 25
_KMEANS_SEED = 25
_DISTINCT_SIMILARITY_MAX = 0.9
"""More similar embeddings do not both become clusters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """Centroids, and per model and cluster the sum and the number of judged qualities."""

    models: tuple[str, ...] = ()
    answers: int = 0
    centroids: Numbers
    """Unit length, one per row."""
    members: Numbers
    """Requests that each centroid is the mean of."""
    quality: Numbers
    count: Numbers


class ClusterScorer:
    """Mean quality in the nearest clusters, shrunk to the model's mean everywhere."""

    def __init__(self, config: ModelRoutingConfig) -> None:
        self._cluster: ClusterConfig = config.cluster
        self._share = config.exploration_share
        self._models_max = config.models_max
        self._prior_quality = config.linear.prior_quality

    @property
    def name(self) -> str:
        """As in the configuration."""
        return "cluster"

    @property
    def learns_burden(self) -> bool:
        """Only quality is learnt."""
        return False

    def initial(self) -> ClusterState:
        """No cluster, no model."""
        return ClusterState(
            centroids=np.zeros((0, 0)), members=np.zeros(0), quality=np.zeros((0, 0)), count=np.zeros((0, 0))
        )

    def version(self, state: ClusterState) -> int:
        """Judged answers."""
        return state.answers

    def fitted(self, examples: Sequence[Example]) -> ClusterState:
        """Clusters of the examples' embeddings, and every model's mean in each."""
        embedded = [example for example in examples if example.signals.embedding]
        if not embedded:
            return self.initial()
        rows = _unit(np.array([example.signals.embedding for example in embedded]))
        centroids, nearest = _kmeans(rows, min(self._cluster.clusters, len(rows)))
        models = tuple(sorted({model for example in embedded for model in example.quality}))
        quality = np.zeros((len(models), len(centroids)))
        count = np.zeros_like(quality)
        for example, at in zip(embedded, nearest, strict=True):
            for model, judged in example.quality.items():
                quality[models.index(model), at] += judged
                count[models.index(model), at] += 1
        return ClusterState(
            models=models,
            centroids=centroids,
            members=np.bincount(nearest, minlength=len(centroids)).astype(np.float64),
            quality=quality,
            count=count,
        )

    def expected(self, signals: ModelSignals, models: Sequence[str], state: ClusterState) -> Expected:
        """The nearest clusters' means, weighed by their similarity."""
        width = np.zeros(len(models))
        everywhere = self._everywhere(state)
        mean = float(everywhere.mean()) if len(everywhere) else self._prior_quality
        quality = np.full(len(models), mean)
        known = [n for n, model in enumerate(models) if model in state.models]
        at = np.array([state.models.index(models[n]) for n in known], dtype=np.intp)
        quality[known] = everywhere[at]
        if known and self._placeable(signals, state):
            similar = state.centroids @ _unit(np.array([signals.embedding]))[0]
            near = np.argsort(-similar)[: self._cluster.nearest]
            weight = np.exp(self._cluster.sharpness * (similar[near] - similar[near[0]]))
            weight /= weight.sum()
            prior = self._cluster.prior_answers
            sums = state.quality[np.ix_(at, near)] + prior * everywhere[at][:, None]
            quality[known] = sums / (state.count[np.ix_(at, near)] + prior) @ weight
        return Expected(quality=quality, width=width)

    def scores(self, quality: Numbers, weight: float, burden: Numbers) -> Numbers:
        """Quality less burden, in points of quality."""
        return weight * quality - burden

    def chances(self, scores: Numbers, found: Expected) -> Numbers:
        """All for the highest."""
        del found
        return highest(scores)

    def tendency(self, scores: Numbers) -> Numbers:
        """All for the highest of each row."""
        return highest(scores)

    def uniform_share(self, state: ClusterState) -> float:
        """The configured one."""
        del state
        return self._share

    def learn(
        self, state: ClusterState, signals: ModelSignals, model: str, quality: float, burden: float
    ) -> ClusterState:
        """One more judged answer, counted in the nearest cluster, which moves towards it."""
        del burden
        state = self._with_model(state, model)
        if signals.embedding and state.centroids.shape[1] in (0, len(signals.embedding)):
            state = self._with_member(state, _unit(np.array([signals.embedding]))[0])
            at = int(np.argmax(state.centroids @ np.asarray(signals.embedding)))
            index = state.models.index(model)
            state.quality[index, at] += quality
            state.count[index, at] += 1
        return replace(state, answers=state.answers + 1)

    def fields(self, state: ClusterState) -> dict[str, Any]:
        """For the disk."""
        return {
            "models": list(state.models),
            "answers": state.answers,
            "centroids": state.centroids,
            "members": state.members,
            "quality": state.quality,
            "count": state.count,
        }

    def from_fields(self, fields: dict[str, Any]) -> ClusterState:
        """Read `fields`."""
        models = tuple(str(model) for model in entry(fields, "models", list))
        centroids = fields.get("centroids")
        if not isinstance(centroids, np.ndarray) or centroids.ndim != 2:
            raise ValueError("state: centroids should be a table")
        clusters = len(centroids)
        return ClusterState(
            models=models,
            answers=entry(fields, "answers", int),
            centroids=centroids,
            members=array(fields, "members", (clusters,)),
            quality=array(fields, "quality", (len(models), clusters)),
            count=array(fields, "count", (len(models), clusters)),
        )

    def _placeable(self, signals: ModelSignals, state: ClusterState) -> bool:
        return bool(signals.embedding) and state.centroids.shape[1] == len(signals.embedding)

    def _everywhere(self, state: ClusterState) -> Numbers:
        """Each model's mean over all clusters, shrunk to the prior."""
        prior = self._cluster.prior_answers
        sums = state.quality.sum(axis=1) + prior * self._prior_quality
        return np.asarray(sums / (state.count.sum(axis=1) + prior))

    def _with_model(self, state: ClusterState, model: str) -> ClusterState:
        """A copy that has a row for the model, if need be in place of the one with the fewest answers."""
        rows = np.arange(len(state.models))
        if model not in state.models and len(rows) >= self._models_max:
            rows = np.delete(rows, np.argmin(state.count.sum(axis=1)))
        models = tuple(state.models[row] for row in rows)
        quality, count = state.quality[rows], state.count[rows]
        if model not in models:
            models = (*models, model)
            quality = np.vstack([quality, np.zeros((1, len(state.centroids)))])
            count = np.vstack([count, np.zeros((1, len(state.centroids)))])
        return replace(state, models=models, quality=quality, count=count)

    def _with_member(self, state: ClusterState, embedding: Numbers) -> ClusterState:
        """The nearest centroid moves towards the embedding; a new kind of request may become a centroid."""
        similar = state.centroids @ embedding if len(state.centroids) else np.zeros(0)
        fresh = not len(similar) or float(similar.max()) < _DISTINCT_SIMILARITY_MAX
        if fresh and len(state.centroids) < self._cluster.clusters:
            column = np.zeros((len(state.models), 1))
            return replace(
                state,
                centroids=np.vstack([state.centroids.reshape(-1, len(embedding)), embedding]),
                members=np.append(state.members, 1.0),
                quality=np.hstack([state.quality, column]),
                count=np.hstack([state.count, column]),
            )
        at = int(np.argmax(similar))
        centroids, members = state.centroids.copy(), state.members.copy()
        members[at] += 1
        centroids[at] = _unit((centroids[at] + (embedding - centroids[at]) / members[at])[None])[0]
        return replace(state, centroids=centroids, members=members)


def _unit(rows: Numbers) -> Numbers:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0))


def _kmeans(rows: Numbers, clusters: int) -> tuple[Numbers, NDArray[np.intp]]:
    """Spherical k-means from seeded distinct rows."""
    picked = np.random.default_rng(_KMEANS_SEED).choice(len(rows), size=clusters, replace=False)
    centroids = rows[picked]
    nearest = np.full(len(rows), -1)
    for _ in range(_ROUNDS_MAX):
        found = np.argmax(rows @ centroids.T, axis=1)
        if (found == nearest).all():
            break
        nearest = found
        for at in range(clusters):
            if (nearest == at).any():
                centroids[at] = rows[nearest == at].mean(axis=0)
        centroids = _unit(centroids)
    return centroids, nearest
