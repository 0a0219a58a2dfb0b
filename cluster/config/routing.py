"""How a model, a path and a replica are chosen."""

from typing import Literal

from pydantic import Field

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


class ReplicaRoutingConfig(Section):
    """Least predicted work (docs/architecture.md)."""

    policy: Literal["min_work"] = "min_work"
    """Which policy scores the replicas."""

    decode_weight_s: float = Field(default=0.5, ge=0)
    """Seconds that a replica at its request limit, or with a full KV cache, counts more than an idle one."""

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

    put_aside_first_s: float = Field(default=0.5, gt=0)
    """How long a replica that failed once is not chosen; doubles with every further failure."""

    put_aside_max_s: float = Field(default=15.0, gt=0)
    """Upper end of that doubling."""


class RoutingConfig(Section):
    """Model, path and replica."""

    disaggregation: DisaggregationConfig = DisaggregationConfig()
    replicas: ReplicaRoutingConfig = ReplicaRoutingConfig()
    models: ModelRoutingConfig = ModelRoutingConfig()
    auto: AutoConfig = AutoConfig()
    learning: ModelLearningConfig = ModelLearningConfig()
