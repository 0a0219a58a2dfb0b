"""The model-routing policies by name."""

from typing import Any

from cluster.config.model_routing import ModelRoutingConfig
from cluster.policy.routing.models.interface import ModelPolicy
from cluster.policy.routing.models.static import category_map, static


def model_policy(config: ModelRoutingConfig, models: tuple[str, ...]) -> ModelPolicy[Any]:
    """The configured policy over these models, in the order configured.

    Raises:
        ValueError: there are no models.
    """
    if not models:
        raise ValueError("model routing needs at least one model")
    default = config.default or models[0]
    if config.policy == "category_map":
        return category_map(config.category_map, default, models)
    if config.policy == "static":
        return static(config.rules, default, models)
    raise NotImplementedError(config.policy)
