"""The model-routing policies by name."""

from typing import Any

from cluster.config.model_routing import ModelRoutingConfig
from cluster.policy.routing.models.categories import CATEGORIES
from cluster.policy.routing.models.centroids import ClusterScorer
from cluster.policy.routing.models.features import FeatureMap
from cluster.policy.routing.models.interface import ModelPolicy
from cluster.policy.routing.models.linear import LinearScorer
from cluster.policy.routing.models.pheromone import PheromoneScorer
from cluster.policy.routing.models.scored import ScoredPolicy, Scorer
from cluster.policy.routing.models.static import category_map, static


def model_policy(
    config: ModelRoutingConfig,
    models: tuple[str, ...],
    *,
    categories: tuple[str, ...] = CATEGORIES,
    warm_start: bytes | None = None,
) -> ModelPolicy[Any]:
    """The configured policy.

    Args:
        config: of model routing.
        models: that may be chosen, in the order configured.
        categories: that the signals' classifier knows.
        warm_start: a state of this policy, learnt elsewhere.

    Raises:
        ValueError: there are no models, a category does not exist, or the warm start is of another policy or
            other features.
    """
    if not models:
        raise ValueError("model routing needs at least one model")
    for field, category in config.categories_named:
        if category not in categories:
            raise ValueError(f"routing.models.{field}: no category {category!r}; {', '.join(categories)}")
    default = config.default or models[0]
    if config.policy == "static":
        return static(config.rules, default, models)
    if config.policy == "category_map":
        return category_map(config.category_map, default, models)
    return scored_policy(config, categories=categories, warm_start=warm_start)


def scored_policy(
    config: ModelRoutingConfig, *, categories: tuple[str, ...] = CATEGORIES, warm_start: bytes | None = None
) -> ScoredPolicy[Any]:
    """The configured policy, if it is one of those that score models.

    Raises:
        ValueError: it is not, or the warm start is of another policy or other features.
    """
    features = FeatureMap.over(config.features, categories)
    return ScoredPolicy(_scorer(config, features), config, features, warm_start)


def _scorer(config: ModelRoutingConfig, features: FeatureMap) -> Scorer[Any]:
    if config.policy == "cluster":
        return ClusterScorer(config)
    if config.policy == "pheromone":
        return PheromoneScorer(config)
    if config.policy == "static" or config.policy == "category_map":  # noqa: PLR1714 - narrows the type
        raise ValueError(f"{config.policy} scores no models")
    return LinearScorer(config.policy, config, features)
