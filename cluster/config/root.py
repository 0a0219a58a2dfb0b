"""The whole configuration and the checks that span its sections."""

from pydantic import Field, model_validator

from cluster.config.adapters import AdaptersConfig, PoolAdaptersConfig
from cluster.config.base import Name, Section
from cluster.config.decision_log import DecisionLogConfig
from cluster.config.gateway import GatewayConfig
from cluster.config.guardrails import GuardrailsConfig
from cluster.config.kubernetes import KubernetesConfig
from cluster.config.local_cluster import LocalClusterConfig
from cluster.config.models import ModelConfig
from cluster.config.observability import LoggingConfig, StatusPageConfig, TracingConfig
from cluster.config.pools import PoolConfig
from cluster.config.provisioning import ProvisioningConfig
from cluster.config.routing import RoutingConfig
from cluster.config.semantic_cache import SemanticCacheConfig
from cluster.config.telemetry import TelemetryConfig
from cluster.config.tenants import TenantsConfig
from cluster.entities.model_routing import Goal
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
    adapters: AdaptersConfig = AdaptersConfig()
    provisioning: ProvisioningConfig = ProvisioningConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    tenants: TenantsConfig = TenantsConfig()
    guardrails: GuardrailsConfig = GuardrailsConfig()
    decision_log: DecisionLogConfig = DecisionLogConfig()
    logging: LoggingConfig = LoggingConfig()
    tracing: TracingConfig = TracingConfig()
    status_page: StatusPageConfig = StatusPageConfig()
    local_cluster: LocalClusterConfig = LocalClusterConfig()
    kubernetes: KubernetesConfig = KubernetesConfig()

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
        self._check_adapters()
        self._check_callers()
        for field, model in self.routing.models.models_named:
            if model not in self.models:
                known = ", ".join(sorted(self.models))
                raise ValueError(f"routing.models.{field}: no model {model!r}; models has: {known}")
        return self

    def _check_callers(self) -> None:
        """Nobody is let in by mistake, and what tenants may ask is there."""
        if not self.tenants.enabled and not self.gateway.allow_without_keys and not self.gateway.is_loopback:
            raise ValueError(
                f"gateway.host: {self.gateway.host} lets everybody in who reaches this machine; set "
                "tenants.enabled: true and make keys (`tidemill keys create`), or say "
                "gateway.allow_without_keys: true"
            )
        encoder = self.semantic_cache.encoder.model
        if "operator" in self.tenants.tenants:
            raise ValueError("tenants.tenants.operator: the name is that of the admin key's holder")
        for name, tenant in self.tenants.tenants.items():
            unknown = set(tenant.models or ()) - {*self.client_names, encoder}
            if unknown:
                known = ", ".join(self.client_names)
                raise ValueError(f"tenants.tenants.{name}.models: no model {min(unknown)!r}; known: {known}")

    def _check_names(self) -> None:
        taken: dict[str, str] = {}
        for model, entry in self.models.items():
            for name in (model, *entry.aliases):
                if name in taken:
                    raise ValueError(f"models.{model}.aliases: {name!r} already names model {taken[name]!r}")
                taken[name] = model
        self._check_auto_names(taken)
        if self.semantic_cache.enabled and self.semantic_cache.encoder.model in taken:
            raise ValueError("semantic_cache.encoder.model: the name is taken by a model; choose another")

    def _check_auto_names(self, taken: dict[str, str]) -> None:
        """A name cannot both be a model and leave the model open."""
        auto, routing = self.routing.auto, self.routing.models
        meant = auto.enabled or (auto.enabled is None and len(self.models) > 1 and routing != type(routing)())
        for name in auto.goals:
            if meant and name in taken:
                raise ValueError(
                    f"models.{taken[name]}.aliases: {name!r} names this model, but with routing.models it "
                    "leaves the model open; remove the alias, rename it in routing.auto, or set "
                    "routing.auto.enabled: false"
                )
        if self.semantic_cache.enabled and self.semantic_cache.encoder.model in auto.goals:
            raise ValueError("semantic_cache.encoder.model: the name is one of routing.auto; choose another")

    def _check_adapters(self) -> None:
        """Every adapter has a base model and pools that can hold it."""
        for name, adapter in self.adapters.catalogue.items():
            path = f"adapters.catalogue.{name}"
            if name in self.routing.auto.goals:
                raise ValueError(f"{path}: the name is one of routing.auto; choose another")
            if adapter.base_model not in self.models:
                known = ", ".join(sorted(self.models))
                raise ValueError(f"{path}.base_model: no model {adapter.base_model!r}; models has: {known}")
            holders = self.adapter_pools(adapter.base_model)
            if not holders:
                raise ValueError(
                    f"{path}.base_model: no pool of {adapter.base_model} holds adapters; "
                    "set pools.NAME.adapters"
                )
            for pool, holder in holders.items():
                if adapter.rank_max is not None and adapter.rank_max > holder.rank_max:
                    raise ValueError(
                        f"{path}.rank_max: {adapter.rank_max} is above pools.{pool}.adapters.rank_max "
                        f"({holder.rank_max})"
                    )
        self._check_pins()

    def _check_pins(self) -> None:
        for model in self.models:
            pinned = sum(a.pinned for a in self.adapters.catalogue.values() if a.base_model == model)
            for pool, holder in self.adapter_pools(model).items():
                if pinned > holder.pins_max:
                    raise ValueError(
                        f"pools.{pool}.adapters.slots: {pinned} adapters of {model} are pinned, and "
                        f"{holder.slots} slots less a reserve of {holder.reserve_slots} are too few"
                    )

    def adapter_pools(self, model: str) -> dict[str, PoolAdaptersConfig]:
        """What the pools of a model that hold adapters may hold, by name."""
        return {
            name: pool.adapters
            for name, pool in self.pools.items()
            if pool.model == model and pool.adapters is not None
        }

    @property
    def reads_texts(self) -> bool:
        """Whether something is chosen by what prompts say."""
        return self.routes_models or any(pool.adapters is not None for pool in self.pools.values())

    @property
    def routes_models(self) -> bool:
        """Whether callers may leave the model open."""
        if self.routing.auto.enabled is not None:
            return self.routing.auto.enabled
        return len(self.models) > 1 and not any(self.model_for(name) for name in self.routing.auto.goals)

    @property
    def keeps_prefixes_apart(self) -> bool:
        """Whether no tenant's prompts are answered from the prefix cache of another's."""
        chosen = self.routing.replicas.prefix_isolation
        return self.tenants.enabled if chosen is None else chosen == "tenant"

    @property
    def client_names(self) -> list[str]:
        """Every name under which clients may ask for an answer."""
        aliases = [alias for entry in self.models.values() for alias in entry.aliases]
        return [*self.models, *aliases, *(self.routing.auto.goals if self.routes_models else ())]

    def goal_of(self, name: str) -> Goal | None:
        """What a caller wants who leaves the model open; None if the name does not."""
        return self.routing.auto.goals.get(name) if self.routes_models else None

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
