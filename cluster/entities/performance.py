"""How fast one replica is and what it draws: the numbers that every prediction is made from.

One replica is one engine on all the GPUs it spans; every watt, token and dollar here is of the whole replica,
never of one GPU of a group (published tokens per watt often divide a group's tokens by one GPU's power).
"""

from dataclasses import dataclass
from enum import StrEnum


class Provenance(StrEnum):
    """Where a profile's numbers come from, best first."""

    REFIT = "refit"
    """Fitted online from what the pool's own replicas report."""
    CONFIGURED = "configured"
    """Written in the configuration."""
    FITTED = "fitted"
    """Fitted from published measurements of this GPU type and model."""
    DERIVED = "derived"
    """Computed from data sheets with efficiencies fitted on other models."""
    ASSUMED = "assumed"
    """A stand-in until something is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCurve:
    """Power of a replica by what it does.

    Decoding b sequences: idle_w + range_w / (1 + exp(-steepness·(log2 b - midpoint_log2))), the logistic form
    of arXiv 2603.17280 (formula in section 3.1).
    """

    idle_w: float
    """Model loaded, nothing to do. Higher than an empty GPU's idle power (B200: 251 W against 191 W)."""
    range_w: float
    steepness: float
    midpoint_log2: float
    prefill_w: float
    """While computing prompts: limited by computation, near the power limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPerformance:
    """One replica's speed, memory, power, start and price.

    One engine step takes step_base_s + step_per_sequence_s·b + step_per_context_token_s·C + prefill_token_s·t
    with b decoding sequences, C the context tokens they attend to, and t prompt tokens computed in that step.
    """

    step_base_s: float
    """W: reading the weights and everything else that does not depend on load."""
    step_per_sequence_s: float
    """What a decoding sequence adds to a step whatever its context."""
    step_per_context_token_s: float
    """What every token of context attended to adds: reading its KV cache."""
    prefill_token_s: float
    """What every prompt token computed in a step adds; 0 reproduces models in which a chunk costs nothing
    beyond the step it is in."""
    batch_tokens_max: int
    """Token budget of one step, shared by decoding sequences and prompt chunks (vLLM's
    max_num_batched_tokens)."""
    sequences_max: int
    """Sequences that run at a time (vLLM's max_num_seqs)."""
    kv_tokens_max: int
    """Tokens that the KV cache holds, in whole blocks."""
    kv_block_tokens: int
    kv_token_bytes: float
    """KV cache of one token, over all layers and GPUs of the replica."""
    transfer_bytes_per_s: float
    """KV cache handed over between two replicas."""
    transfer_latency_s: float
    start_s: float
    """From the wish for a replica to its first answer: node, image, weights, warm-up."""
    start_j: float
    """Energy of a start."""
    power: PowerCurve
    price_usd_per_h: float
    gpus: int
    provenance: Provenance
    sources: tuple[str, ...] = ()
    """Where the numbers come from, one line each."""
