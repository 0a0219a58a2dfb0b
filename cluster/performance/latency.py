"""How long an engine takes for the two phases of a request.

Two numbers for decode and one for prefill are what a fleet measurement can fit and a simulated engine needs.
"""

from cluster.entities.performance import ReplicaPerformance

_INSTANT_TOKENS_PER_S = 1e9
"""Rate where nothing costs time."""


def prefill_s(tokens: int, tokens_per_s: float) -> float:
    """Seconds to compute a prompt that has the engine to itself.

    Prefill is limited by computation, so time grows with the tokens; the part of attention that grows with
    their square is left out, as it is small at the prompt lengths served here.

    Args:
        tokens: uncached prompt tokens.
        tokens_per_s: the engine's prefill rate.

    Raises:
        ValueError: tokens is negative or the rate not positive.
    """
    if tokens < 0:
        raise ValueError(f"tokens must not be negative, not {tokens}")
    if not tokens_per_s > 0:
        raise ValueError(f"tokens_per_s must be positive, not {tokens_per_s}")
    return tokens / tokens_per_s


def decode_step_s(batch: int, *, base_s: float, per_sequence_s: float) -> float:
    """Seconds of one decode step, which gives every sequence in the batch one token.

    Source: the linear fit ITL = W + H·b, where W is the time to read the weights and H what each sequence's
    KV cache adds at a given context length. arXiv 2603.17280 has W = 4 ms and H = 0.32 ms for an H100 at
    8,192 tokens of context.

    Args:
        batch: b, sequences decoding together.
        base_s: W.
        per_sequence_s: H.

    Raises:
        ValueError: the batch is empty or a time negative.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    if not (base_s >= 0 and per_sequence_s >= 0):
        raise ValueError(f"times must not be negative: base_s={base_s}, per_sequence_s={per_sequence_s}")
    return base_s + per_sequence_s * batch


def prefill_tokens_per_s(performance: ReplicaPerformance) -> float:
    """Prompt tokens per second of a replica that does nothing else: whole steps of the token budget."""
    whole_s = performance.step_base_s + performance.prefill_token_s * performance.batch_tokens_max
    return performance.batch_tokens_max / whole_s if whole_s > 0 else _INSTANT_TOKENS_PER_S


def step_s(
    performance: ReplicaPerformance, *, sequences: float, context_tokens: float, prefill_tokens: float
) -> float:
    """Seconds of one engine step: W + g·b + h·C + p·t (the formula of `ReplicaPerformance`).

    Args:
        performance: the replica.
        sequences: b, decoding sequences.
        context_tokens: C, tokens of context that they attend to, over all of them.
        prefill_tokens: t, prompt tokens computed in the step.
    """
    return (
        performance.step_base_s
        + performance.step_per_sequence_s * sequences
        + performance.step_per_context_token_s * context_tokens
        + performance.prefill_token_s * prefill_tokens
    )
