"""Finds pools that the provisioner could not plan with, before engines load their models for nothing."""

from cluster.config import ConfigError, TidemillConfig
from cluster.performance.architectures import model_spec
from cluster.performance.profiles import pool_performance


def check_pools(config: TidemillConfig, *, origin: str) -> None:
    """Look every pool up in the performance catalogue, as the provisioner will.

    Args:
        config: the whole configuration.
        origin: its name, for the error.

    Raises:
        ConfigError: an architecture is not in the catalogue, or a model does not fit on its pool's GPUs.
    """
    unknown: dict[str, str] = {}
    unfit: list[str] = []
    for name, pool in config.pools.items():
        model = config.models[pool.model]
        try:
            pool_performance(pool, model)
        except ValueError as error:
            if model.architecture is not None and model_spec(model.architecture) is None:
                unknown[pool.model] = f"models.{pool.model}: {error}"
            else:
                remedy = (
                    f"leave models.{pool.model}.architecture out if they are quantised, or name more GPUs"
                )
                unfit.append(f"pools.{name}: {error}; {remedy}")
    if lines := [*unknown.values(), *unfit]:
        raise ConfigError("\n".join([f"{origin}:", *(f"  {line}" for line in lines)]))
