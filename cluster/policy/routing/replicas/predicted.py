"""Predicted time to first token of a prompt on a replica: what admission, path and replica choice all go by.

Both parts come from the fleet's snapshot: the prefill rate that the replica measured (or its pool's profile
says), and the length of an engine step under what is decoding there, from the pool's refit performance. The
counts are the router's own, which are newer than any snapshot.
"""

import math

from cluster.entities.pool import ReplicaCandidate


def predicted_ttft_s(
    prompt_tokens: int, replica: ReplicaCandidate, *, assumed_tokens_per_s: float = 0.0
) -> float:
    """Seconds until the first token would come: prompts ahead, this prompt, and one step.

    Args:
        prompt_tokens: length of the prompt; what the replica's prefix cache holds of it costs nothing.
        replica: a candidate with its `cached_tokens` for this prompt.
        assumed_tokens_per_s: prefill rate of a replica that says none; without it, infinite work.
    """
    rate = _rate(replica, assumed_tokens_per_s)
    tokens = max(replica.pending_prefill_tokens, 0) + max(prompt_tokens - replica.cached_tokens, 0)
    if rate <= 0:
        return math.inf if tokens else replica.step_s
    return tokens / rate + replica.step_s


def stall_s(prompt_tokens: int, replica: ReplicaCandidate, *, assumed_tokens_per_s: float = 0.0) -> float:
    """Seconds for which this prompt would hold up the answers under way there, added up over them.

    Args:
        prompt_tokens: length of the prompt; what the replica's prefix cache holds of it costs nothing.
        replica: a candidate with its `cached_tokens` for this prompt.
        assumed_tokens_per_s: prefill rate of a replica that says none; without it, nothing is said.
    """
    decoding = replica.requests_in_flight - replica.requests_waiting
    tokens = prompt_tokens - replica.cached_tokens
    rate = _rate(replica, assumed_tokens_per_s)
    return decoding * tokens / rate if decoding > 0 and tokens > 0 and rate > 0 else 0.0


def _rate(replica: ReplicaCandidate, assumed_tokens_per_s: float) -> float:
    # A rate of zero is a measurement that has not happened, not an engine that never finishes.
    rate = replica.prefill_tokens_per_s
    return rate if rate > 0 else assumed_tokens_per_s
