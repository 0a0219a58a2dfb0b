"""The whole configuration and the checks that span its sections."""

from pydantic import Field, model_validator

from cluster.config.base import Name, Section
from cluster.config.decision_log import DecisionLogConfig
from cluster.config.gateway import GatewayConfig
from cluster.config.local_cluster import LocalClusterConfig
from cluster.config.models import ModelConfig
from cluster.config.pools import PoolConfig
from cluster.config.provisioning import ProvisioningConfig
from cluster.config.routing import RoutingConfig
from cluster.config.semantic_cache import SemanticCacheConfig
from cluster.config.telemetry import TelemetryConfig
from cluster.entities.pool import Role


class TidemillConfig(Section):
    """One Tidemill cluster."""

    models: dict[Name, ModelConfig] = Field(min_length=1)
    """Served models by the name clients use."""

    pools: dict[Name, PoolConfig] = Field(min_length=1)
    """Pools by name; each becomes one Serve application."""

    gateway: GatewayConfig = GatewayConfig()
    routing: RoutingConfig = RoutingConfig()
    semantic_cache: SemanticCacheConfig = SemanticCacheConfig()
    provisioning: ProvisioningConfig = ProvisioningConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    decision_log: DecisionLogConfig = DecisionLogConfig()
    local_cluster: LocalClusterConfig = LocalClusterConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "TidemillConfig":
        for name, pool in self.pools.items():
            if pool.model not in self.models:
                known = ", ".join(sorted(self.models))
                raise ValueError(f"pools.{name}.model: no model {pool.model!r}; models has: {known}")
        for model in self.models:
            roles = {pool.role for pool in self.pools.values() if pool.model == model}
            if not any(role.answers for role in roles):
                raise ValueError(f"models.{model}: no decode or combined pool serves it; add one to pools")
        self._check_names()
        return self

    def _check_names(self) -> None:
        taken: dict[str, str] = {}
        for model, entry in self.models.items():
            for name in (model, *entry.aliases):
                if name in taken:
                    raise ValueError(f"models.{model}.aliases: {name!r} already names model {taken[name]!r}")
                taken[name] = model
        if self.semantic_cache.enabled and self.semantic_cache.encoder.model in taken:
            raise ValueError("semantic_cache.encoder.model: the name is taken by a model; choose another")

    def model_for(self, name: str) -> str | None:
        """The served model that a client's `model` means; None if there is none."""
        if name in self.models:
            return name
        return next((model for model, entry in self.models.items() if name in entry.aliases), None)

    @property
    def default_model(self) -> str:
        """The model of requests that name none: the first one configured."""
        return next(iter(self.models))

    def pools_of(self, model: str, *roles: Role) -> dict[str, PoolConfig]:
        """The pools that serve a model, in the given roles (all if none is given)."""
        return {
            name: pool
            for name, pool in self.pools.items()
            if pool.model == model and (not roles or pool.role in roles)
        }

    def is_split(self, model: str) -> bool:
        """Whether prompts of a model may be computed by prefill replicas."""
        return bool(self.pools_of(model, Role.PREFILL))
