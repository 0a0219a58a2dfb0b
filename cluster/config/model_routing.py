"""Which model answers a request that leaves the model open."""

from typing import Literal

from pydantic import Field, model_validator

from cluster.config.base import Name, Section
from cluster.config.model_rules import RuleConfig, mistakes_in

ModelPolicyName = Literal[
    "static", "category_map", "cluster", "ridge", "linucb", "thompson", "epsilon", "pheromone"
]


class WeightsConfig(Section):
    """What counts how much against each other.

    Money, time and energy are each scaled to 0..1 between the 5th and the 95th percentile of what answers
    took lately.
    """

    quality: float = Field(default=1.0, ge=0)
    """Weight of the judged quality, 0..1."""

    cost: float = Field(default=0.05, ge=0)
    """Weight of an answer's price."""

    latency: float = Field(default=0.05, ge=0)
    """Weight of the time to the last token."""

    energy: float = Field(default=0.1, ge=0)
    """Weight of an answer's energy."""

    @model_validator(mode="after")
    def _counts_something(self) -> "WeightsConfig":
        if not (self.quality or self.cost or self.latency or self.energy):
            raise ValueError("all weights are 0; something must count")
        return self


class GoalsConfig(Section):
    """The weights for each goal a caller may have."""

    balanced: WeightsConfig = WeightsConfig()
    """`auto`."""

    cheap: WeightsConfig = WeightsConfig(cost=0.3, latency=0.05, energy=0.3)
    """`auto:cheap`."""

    quality: WeightsConfig = WeightsConfig(cost=0.005, latency=0.0, energy=0.005)
    """`auto:quality`."""


class FeaturesConfig(Section):
    """What the learning policies see of a request: a constant, then these."""

    category: bool = True
    """One dimension per category."""

    complexity: bool = True
    """One dimension per band of complexity."""

    complexity_bounds: tuple[float, ...] = (0.2, 0.4)
    """Where a band ends and the next begins; n bounds make n + 1 bands."""

    length: bool = True
    """Two dimensions for the logarithm of the prompt's length."""

    embedding_dims: int = Field(default=42, ge=0, le=384)
    """Dimensions that the sentence embedding is projected to; 0 leaves it out."""

    @model_validator(mode="after")
    def _bounds_rise(self) -> "FeaturesConfig":
        if list(self.complexity_bounds) != sorted(set(self.complexity_bounds)):
            raise ValueError("complexity_bounds must rise")
        return self


class CategoryMapConfig(Section):
    """`category_map`: the expert of each category."""

    experts: dict[str, Name] = Field(default={})
    """Model by category."""

    fallback: Name | None = None
    """For categories without an expert and for uncertain ones; None for the first model."""

    confidence_min: float = Field(default=0.6, ge=0, le=1)
    """Below this probability of its category a request goes to the fallback."""


class ClusterConfig(Section):
    """`cluster`: nearest clusters of embeddings, each with its own ranking of the models."""

    clusters: int = Field(default=32, ge=1, le=256)
    """Clusters that are kept when they are learnt from traffic alone; a warm start brings its own."""

    nearest: int = Field(default=4, ge=1)
    """Clusters that count for a request."""

    sharpness: float = Field(default=9.0, ge=0)
    """How much more a nearer cluster counts: the factor in the softmax over similarities."""

    prior_answers: float = Field(default=5.0, gt=0)
    """A model's quality in a cluster starts as its quality everywhere, with the weight of so many answers."""


class LinearConfig(Section):
    """`ridge`, `linucb`, `thompson`, `epsilon`: quality as a linear function of the features, per model."""

    regularisation: float = Field(default=3.0, gt=0)
    """Ridge penalty, in answers."""

    prior_quality: float = Field(default=0.5, ge=0, le=1)
    """Expected of every model before the first judged answer; later models start from the mean of those
    there are."""

    forgetting: float = Field(default=0.999, gt=0.9, le=1)
    """Weight of a model's answer falls by this factor with every later one of the same model; 1 forgets
    nothing (and `ridge` never does)."""

    inflation_max: float = Field(default=20.0, ge=1)
    """Variance of a model's expectation grows by 1/forgetting with every answer of another model, at most by
    this factor: what is not asked may have become better."""

    alpha: float = Field(default=0.05, ge=0)
    """`linucb`: standard deviations that uncertainty adds to a score."""

    noise: float = Field(default=0.25, gt=0)
    """`thompson`: standard deviation of an answer's quality around its expectation."""

    epsilon_start: float = Field(default=1.0, ge=0, le=1)
    """`epsilon`: share of requests whose model is drawn uniformly, at first."""

    epsilon_decay: float = Field(default=0.985, gt=0, le=1)
    """`epsilon`: factor on that share with every judged answer."""

    epsilon_min: float = Field(default=0.01, ge=0, le=1)
    """`epsilon`: share that always remains."""


class PheromoneConfig(Section):
    """`pheromone`: trails per category that good answers reinforce and time evaporates."""

    evaporation: float = Field(default=0.02, gt=0, lt=1)
    """Share of a trail that goes with every judged answer of its category."""

    trail_power: float = Field(default=1.0, ge=0)
    """Exponent of the trail."""

    cost_power: float = Field(default=0.5, ge=0)
    """Exponent of cheapness."""

    quality_min: float = Field(default=0.5, ge=0, le=1)
    """Answers below leave no trail."""


class BudgetConfig(Section):
    """Means per request that must not be passed; None for no bound."""

    usd_per_request: float | None = Field(default=None, gt=0)
    """Money."""

    j_per_request: float | None = Field(default=None, gt=0)
    """Energy."""

    @property
    def is_set(self) -> bool:
        """Whether anything is bounded."""
        return self.usd_per_request is not None or self.j_per_request is not None


class BudgetsConfig(BudgetConfig):
    """Budgets of everybody together, and of each tenant.

    Setting one adds the budget pacer to any policy that scores (all but `static` and `category_map`).
    """

    per_tenant: BudgetConfig = BudgetConfig()
    """Budget of every tenant that has none of its own."""

    tenants: dict[str, BudgetConfig] = Field(default={})
    """Budget of single tenants, by tenant id."""

    tenants_max: int = Field(default=1024, ge=1)
    """Tenants whose spending is remembered; the one that was silent longest is forgotten first."""

    horizon_requests: int = Field(default=500, ge=10)
    """Over so many requests what was spent too much is saved again; savings are spent in a tenth of that."""

    @property
    def any_set(self) -> bool:
        """Whether the pacer has anything to do."""
        return self.is_set or self.per_tenant.is_set or any(own.is_set for own in self.tenants.values())


class CascadeConfig(Section):
    """Judging an answer before it is sent, and asking a better model when it is poor."""

    enabled: bool = False
    """Holds answers back until they are judged, so that streams begin late. Off, one model answers."""

    models_max: int = Field(default=2, ge=2, le=8)
    """Models that may be asked for one request."""

    verifier: Literal["margins", "self_check", "judge"] = "margins"
    """What grades an answer: how sure the model was of its tokens, the model itself when it is asked whether
    its answer is right, or the model named by `judge`."""

    judge: Name | None = None
    """Model that grades answers, for `verifier: judge`."""

    sigma_before: float = Field(default=0.35, gt=0)
    """Standard deviation of a model's expected quality before its answer is seen."""

    sigma_after: float = Field(default=0.15, gt=0)
    """The same after its answer was judged."""

    gain_min: float = Field(default=0.02, ge=0)
    """Expected gain in quality, price taken off, below which no further model is asked."""

    quality_per_usd: float = Field(default=10.0, ge=0)
    """Quality that a dollar must buy."""

    margin_scale: float = Field(default=2.0, gt=0)
    """Gap in log-probability between the two likeliest tokens at which a token counts as certain."""

    weakest_share: float = Field(default=0.2, gt=0, le=1)
    """Share of an answer's tokens, the least certain ones, by whose certainty the answer is graded."""

    @model_validator(mode="after")
    def _has_its_judge(self) -> "CascadeConfig":
        if (self.verifier == "judge") != (self.judge is not None):
            raise ValueError("verifier: judge and a model for judge belong together")
        return self

    @model_validator(mode="after")
    def _seeing_helps(self) -> "CascadeConfig":
        if self.sigma_after >= self.sigma_before:
            raise ValueError(
                f"sigma_after ({self.sigma_after:g}) must be smaller than sigma_before "
                f"({self.sigma_before:g}): a judged answer is known better than one not yet given"
            )
        return self


class ModelRoutingConfig(Section):
    """Model routing: in effect for requests whose `model` is an alias of several models, such as `auto`."""

    policy: ModelPolicyName = "static"
    """Which policy chooses."""

    default: Name | None = None
    """Model where no rule applies; None for the first one configured. With a learning policy: the model that
    answers where less than a tenth of the answers are judged, as long as the model that scores highest has
    fewer than `trial_answers` of them; None for all evenly and, when they were tried, the score."""

    rules: tuple[RuleConfig, ...] = Field(default=(), max_length=64)
    """`static`: the first rule that fits a request names its model."""

    category_map: CategoryMapConfig = CategoryMapConfig()
    cluster: ClusterConfig = ClusterConfig()
    linear: LinearConfig = LinearConfig()
    pheromone: PheromoneConfig = PheromoneConfig()
    features: FeaturesConfig = FeaturesConfig()
    goals: GoalsConfig = GoalsConfig()
    budgets: BudgetsConfig = BudgetsConfig()
    cascade: CascadeConfig = CascadeConfig()

    exploration_share: float = Field(default=0.01, ge=0, le=1)
    """Share of requests whose model is drawn uniformly, whatever it scores, so that other policies can be
    evaluated on the log; for `cluster`, `ridge`, `linucb`, `thompson` and `pheromone`."""

    trial_share: float = Field(default=0.2, ge=0, le=1)
    """Share of requests that goes to models with fewer than `trial_answers` judged answers, while there are
    any, whatever they score: one bad first answer must not be the last. While the best of all is such a model
    itself, the others are shared evenly (but see `default`). 0 for no trials."""

    trial_answers: int = Field(default=16, ge=0)
    """Judged answers after which a model has been tried."""

    window_answers: int = Field(default=64, ge=8, le=4096)
    """Latest answers of each model from which its price, energy and time are learnt."""

    models_max: int = Field(default=64, ge=1, le=1024)
    """Models about which something is remembered; the one that was silent longest is forgotten first."""

    categories_max: int = Field(default=64, ge=1, le=1024)
    """Categories about which something is remembered."""

    @model_validator(mode="after")
    def _consistent(self) -> "ModelRoutingConfig":
        mistakes = list(mistakes_in(self.rules))
        if mistakes:
            raise ValueError("; ".join(mistakes))
        if self.budgets.any_set and self.policy in ("static", "category_map"):
            raise ValueError(f"budgets: {self.policy} does not score models, so nothing can be paced")
        return self

    @property
    def models_named(self) -> tuple[tuple[str, str], ...]:
        """Every field of the section that names a model, with the model."""
        experts = self.category_map.experts.items()
        single = (
            ("category_map.fallback", self.category_map.fallback),
            ("cascade.judge", self.cascade.judge),
            ("default", self.default),
        )
        return (
            *((f"rules.{index}.use", model) for index, rule in enumerate(self.rules) for model in rule.use),
            *((f"category_map.experts.{category}", model) for category, model in experts),
            *((field, model) for field, model in single if model is not None),
        )

    @property
    def categories_named(self) -> tuple[tuple[str, str], ...]:
        """Every field of the section that names a category, with the category."""
        return (
            *(
                (f"rules.{index}.when.category", category)
                for index, rule in enumerate(self.rules)
                for category in rule.when.category or ()
            ),
            *(("category_map.experts", category) for category in self.category_map.experts),
        )
