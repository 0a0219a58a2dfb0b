"""Tenants: who may call, which models, how much, and how they share what there is."""

from typing import Literal

from pydantic import Field

from cluster.config.base import Name, Section
from cluster.entities.tenancy import Priority, Quota, Unit, Window


class BudgetAmounts(Section):
    """What may be used in one calendar window (UTC); what is None is not limited."""

    usd: float | None = Field(default=None, gt=0)
    """Money, at the models' prices."""

    tokens: int | None = Field(default=None, gt=0)
    """Prompt and output tokens."""

    energy_j: float | None = Field(default=None, gt=0)
    """Energy of the tenant's requests, idle shares included, measured or modelled. It is known a few seconds
    after the fact, so the stop comes that much late."""


class TenantBudget(Section):
    """Budgets of a tenant: a warning first, then a hard stop (402) until the window ends."""

    day: BudgetAmounts = BudgetAmounts()
    month: BudgetAmounts = BudgetAmounts()

    warn_share: float = Field(default=0.8, gt=0, le=1)
    """Used share of a budget from which answers carry `x-tidemill-budget-warning`."""


class TenantConfig(Section):
    """One tenant."""

    models: tuple[str, ...] | None = None
    """Models it may ask, by any of their names, and names that leave the model open; None allows all."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests in any sixty seconds, cached answers included."""

    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and output tokens in any sixty seconds. A request reserves its prompt and the most that it may
    answer, and gives back what it did not use."""

    concurrent_requests_max: int | None = Field(default=None, ge=1)
    """Requests at a time, on all routers together."""

    priority: Priority = Priority.STANDARD
    """Class in the queue. A more urgent class goes first, but nobody waits for ever: see
    `tenants.fairness.starvation_s`."""

    weight: float = Field(default=1.0, gt=0, le=1000)
    """Share of the engines beside other tenants of the class when there is a queue."""

    budget: TenantBudget = TenantBudget()

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """All limits that are counted over time."""
        found = [
            Quota(window=Window.MINUTE, unit=unit, limit=float(limit))
            for unit, limit in (
                (Unit.REQUESTS, self.requests_per_minute),
                (Unit.TOKENS, self.tokens_per_minute),
            )
            if limit is not None
        ]
        for window, amounts in ((Window.DAY, self.budget.day), (Window.MONTH, self.budget.month)):
            found += [
                Quota(window=window, unit=unit, limit=float(limit))
                for unit, limit in (
                    (Unit.USD, amounts.usd),
                    (Unit.TOKENS, amounts.tokens),
                    (Unit.ENERGY, amounts.energy_j),
                )
                if limit is not None
            ]
        return tuple(found)


class TenantStoreConfig(Section):
    """Where keys and what tenants have used are kept."""

    kind: Literal["sqlite", "redis"] = "sqlite"
    """`sqlite` is files in the state folder, for routers on one machine; `redis` a server, for several."""

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", pattern=r"^(rediss?|unix)://\S+$")
    """Redis or Valkey, for `redis`."""

    redis_password_env: str = ""
    """Environment variable of the routers' processes with the server's password; empty for one without.
    On Kubernetes `kubernetes.secrets.environment` fills it."""

    timeout_s: float = Field(default=1.0, gt=0)
    """How long a request waits for the store at most."""

    when_away: Literal["refuse", "allow"] = "refuse"
    """What becomes of requests whose quota cannot be drawn because the store does not answer: 503, or they
    are answered unlimited and counted later."""

    keys_reload_s: float = Field(default=1.0, gt=0)
    """How often routers look for new and revoked keys."""


class FairnessConfig(Section):
    """How tenants share the engines when there is more to do than they can."""

    reserve_share: float = Field(default=0.5, ge=0, lt=1)
    """Part of a model's places that is kept free of tenants who hold more than their fair share already, so
    that the others find one at once. Less lets one tenant use more of what others leave, and delays them
    more. Nothing is reserved while only one tenant asks."""

    active_s: float = Field(default=60.0, gt=0)
    """How long after its last request a tenant still counts when shares are worked out."""

    starvation_s: float = Field(default=30.0, gt=0)
    """A request that has waited this long goes before all classes."""


class TenantsConfig(Section):
    """API keys, limits and budgets of tenants. Off, a key only keeps cached answers apart."""

    enabled: bool = False
    """Ask for an API key of one of `tenants`, as `Authorization: Bearer` or `x-api-key`."""

    tenants: dict[Name, TenantConfig] = Field(default_factory=dict)
    """Tenants by name. `tidemill keys create NAME` makes keys for them."""

    store: TenantStoreConfig = TenantStoreConfig()
    fairness: FairnessConfig = FairnessConfig()

    output_tokens_assumed: int = Field(default=256, ge=1)
    """What a request reserves for its answer when it does not say how long that may be."""
