"""What is said by hand about the speed and power of a pool's replicas."""

from pydantic import Field

from cluster.config.base import Section


class PowerOverrides(Section):
    """Power of one replica (all its GPUs together); None takes the catalogue's value."""

    idle_w: float | None = Field(default=None, ge=0)
    """Model loaded, nothing to do."""

    range_w: float | None = Field(default=None, ge=0)
    """How much a full decode batch adds."""

    steepness: float | None = Field(default=None, gt=0)
    """Steepness of the logistic curve in log2 of the batch."""

    midpoint_log2: float | None = None
    """log2 of the batch at which half of `range_w` is reached."""

    prefill_w: float | None = Field(default=None, ge=0)
    """While prompts are computed."""


class PerformanceOverrides(Section):
    """Numbers that take the place of the catalogue's for one pool; None takes the catalogue's value.

    The catalogue (`cluster.performance`) knows the GPU types and the models that `models.*.architecture`
    names.
    """

    step_base_s: float | None = Field(default=None, ge=0)
    """W: seconds of a decode step that do not depend on the batch."""

    step_per_sequence_s: float | None = Field(default=None, ge=0)
    """Seconds that every decoding sequence adds to a step."""

    step_per_context_token_s: float | None = Field(default=None, ge=0)
    """Seconds that every token of context adds to a step."""

    prefill_token_s: float | None = Field(default=None, ge=0)
    """Seconds that every prompt token computed in a step adds to it."""

    batch_tokens_max: int | None = Field(default=None, ge=1)
    """Token budget of a step (vLLM's max_num_batched_tokens)."""

    sequences_max: int | None = Field(default=None, ge=1)
    """Sequences that run at a time (vLLM's max_num_seqs)."""

    kv_tokens_max: int | None = Field(default=None, ge=1)
    """Tokens that the KV cache holds."""

    kv_block_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one block."""

    kv_token_bytes: float | None = Field(default=None, gt=0)
    """KV cache of one token."""

    transfer_bytes_per_s: float | None = Field(default=None, gt=0)
    """KV cache handed over in a second."""

    transfer_latency_s: float | None = Field(default=None, ge=0)
    """What a hand-over takes however small."""

    start_s: float | None = Field(default=None, ge=0)
    """From the wish for a replica to its first answer."""

    start_j: float | None = Field(default=None, ge=0)
    """Energy of a start."""

    price_usd_per_h: float | None = Field(default=None, ge=0)
    """Price of one replica."""

    power: PowerOverrides = PowerOverrides()
