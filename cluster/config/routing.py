"""How a model, a path and a replica are chosen."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.config.base import Section
from cluster.config.model_learning import AutoConfig, ModelLearningConfig
from cluster.config.model_routing import ModelRoutingConfig


class DisaggregationConfig(Section):
    """When a prompt is computed by a prefill replica."""

    enabled: bool = True
    """Off sends everything to decode and combined replicas."""

    uncached_tokens_min: int = Field(default=128, ge=1)
    """Prompts with fewer tokens that the decode replica does not already hold are computed there: handing
    them over would cost more than it saves."""

    prefill_wait_s_max: float = Field(default=20.0, gt=0)
    """If the least loaded prefill replica is predicted to need longer than this for what is ahead, the prompt
    is computed by the decode replica."""

    ttft_loss_s_max: float = Field(default=10.0, ge=0)
    """Splitting a request may cost this much of its predicted time to first token, because it keeps the
    answers under way from being stalled; if it costs more, the decode replica computes the prompt."""

    prefill_timeout_s: float = Field(default=60.0, gt=0)
    """A prefill that has not answered by then is given up and the decode replica computes the prompt."""


ReplicaPolicyName = Literal[
    "min_work",
    "weighted",
    "random",
    "round_robin",
    "least_requests",
    "power_of_two",
    "sglang_cache_aware",
    "ray_prefix_affinity",
    "llm_d",
    "dynamo",
    "dynamo_lmetric",
    "aibrix",
    "preble",
]
ReplicaFilterName = Literal["adapter", "session"]
ReplicaScorerName = Literal["prefix", "kv", "queue", "load", "work", "energy"]


class BaselineConfig(Section):
    """Settings of the policies that other systems use, with those systems' defaults."""

    sglang_cache_threshold: float = Field(default=0.5, ge=0, le=1)
    """`sglang_cache_aware`: least part of the prompt that a replica must hold to attract it."""

    sglang_balance_abs: int = Field(default=32, ge=0)
    """`sglang_cache_aware`: loads that differ by no more requests than this are balanced."""

    sglang_balance_rel: float = Field(default=1.1, ge=1)
    """`sglang_cache_aware`: nor are loads out of balance whose ratio is below this."""

    ray_imbalanced_threshold: int | None = Field(default=None, ge=0)
    """`ray_prefix_affinity`: queues that differ by more requests than this are out of balance; None means
    that none ever are, which is Ray's default."""

    ray_match_rate_min: float = Field(default=0.1, ge=0, le=1)
    """`ray_prefix_affinity`: least part of the prompt that a replica must hold to attract it."""

    aibrix_imbalance_max: int = Field(default=8, ge=0)
    """`aibrix`: loads that differ by more requests than this are out of balance."""

    dynamo_block_tokens: int = Field(default=16, ge=1)
    """`dynamo`, `dynamo_lmetric`: tokens in a block."""

    dynamo_prefill_load_scale: float = Field(default=1.0, ge=0)
    """`dynamo`: what a prefill block counts against a decode block."""

    preble_imbalance_max: float = Field(default=1.5, ge=1)
    """`preble`: from this ratio of loads on, the least loaded replica takes over from the most loaded one."""


def _weights() -> dict[ReplicaScorerName, float]:
    return {"work": 2.0, "prefix": 1.0, "load": 1.0}


class ReplicaRoutingConfig(Section):
    """Which replica of the model gets a request (docs/architecture.md)."""

    policy: ReplicaPolicyName = "min_work"
    """`min_work` takes the least predicted work. `weighted` adds up `weights`. The others are what other
    systems do, to be compared with."""

    filters: tuple[ReplicaFilterName, ...] = ("adapter",)
    """What narrows the candidates before the policy, in this order; a filter that would leave none is passed
    over. `adapter`: replicas that hold the request's LoRA adapter. `session`: the home of the request's
    session."""

    adapter_loss_s_max: float = Field(default=2.0, ge=0)
    """A request for an adapter may also go to one replica that has to load it, if its first token is
    predicted to come more than this later on every replica that holds it."""

    session_loss_s_max: float = Field(default=5.0, ge=0)
    """A session leaves its home for a request whose first token is predicted to come more than this later
    there."""

    weights: dict[ReplicaScorerName, Annotated[float, Field(ge=0)]] = Field(default_factory=_weights)
    """What each scorer counts in the policy `weighted`; all scores lie in 0..1. `prefix`: cached part of the
    prompt. `kv`: free part of the KV cache. `queue`: few requests without a first token. `load`: few
    requests. `work`: little predicted time to first token. `energy`: little energy for the request."""

    baselines: BaselineConfig = BaselineConfig()
    """Settings of the other systems' policies."""

    decode_weight_s: float = Field(default=0.5, ge=0)
    """Seconds that a replica at its request limit, or with a full KV cache, counts more than an idle one."""

    stall_weight: float = Field(default=0.01, ge=0)
    """What a second for which a prompt holds up one answer under way counts, against a second of waiting for
    the prompt's own first token."""

    kv_full_s: float = Field(default=2.0, ge=0)
    """Seconds that a replica counts more when its KV cache is full: a prompt would wait there for blocks."""

    tie_s: float = Field(default=0.002, ge=0)
    """Scores closer than this are equal, and chance decides."""

    energy_slack_s: float = Field(default=0.05, ge=0)
    """Among replicas whose score is within this of the best, the one that needs the least energy for the
    request is taken, where the energy of all of them is known; 0 turns it off."""

    assumed_output_tokens: int = Field(default=256, ge=1)
    """Answer length that energy is predicted with, where the client bounds it no lower."""

    assumed_prefill_tokens_per_s: float = Field(default=1000.0, gt=0)
    """Prefill rate of a replica that has not measured its own yet."""

    prefix_block_bytes: int = Field(default=256, ge=32, le=65536)
    """Prompt bytes in one hashed block of the prefix index."""

    prefix_blocks_per_prompt_max: int = Field(default=256, ge=1)
    """Leading blocks of a prompt that are hashed."""

    prefix_blocks_per_replica_max: int = Field(default=32_768, ge=1)
    """Blocks remembered for one replica; the least recently used go first."""

    prefix_isolation: Literal["none", "tenant"] | None = None
    """`tenant` keeps the engines' prefix caches of tenants apart (vLLM's `cache_salt`): nobody can tell from
    the time to a first token what others have sent. It costs what tenants would share, such as an equal
    system prompt. None: `tenant` with `tenants.enabled`, else `none`."""

    prefix_speculative_s: float = Field(default=2.0, ge=0)
    """A prompt that was sent is believed to be in the replica's prefix cache for this much longer than its
    first token is predicted to take; with the first token it is known to be there."""

    exchange_s: float = Field(default=0.2, gt=0, le=60)
    """How often several routers tell each other what they have in flight and which prompts were computed
    where."""

    put_aside_first_s: float = Field(default=0.5, gt=0)
    """How long a replica that failed once is not chosen; doubles with every further failure."""

    put_aside_max_s: float = Field(default=15.0, gt=0)
    """Upper end of that doubling."""

    @model_validator(mode="after")
    def _weighs_something(self) -> "ReplicaRoutingConfig":
        if not any(self.weights.values()):
            raise ValueError("weights are all 0; give at least one scorer a weight")
        return self


class RoutingConfig(Section):
    """Model, path and replica."""

    disaggregation: DisaggregationConfig = DisaggregationConfig()
    replicas: ReplicaRoutingConfig = ReplicaRoutingConfig()
    models: ModelRoutingConfig = ModelRoutingConfig()
    auto: AutoConfig = AutoConfig()
    learning: ModelLearningConfig = ModelLearningConfig()
