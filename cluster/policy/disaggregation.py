"""Whether a prompt is computed by a prefill replica or where the tokens are made.

Remote prefill keeps long prompts from stalling running decodes, at the price of a hand-over. It is a choice,
never a dependency: without a good prefill replica the decode replica computes the prompt itself.
"""

from collections.abc import Sequence

from cluster.config.routing import DisaggregationConfig
from cluster.entities.pool import ReplicaCandidate, Role
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path, PathChoice
from cluster.entities.workload import RequestSignals
from cluster.policy.routing.replicas.predicted import predicted_ttft_s
from cluster.policy.routing.replicas.usable import is_usable


def choose_path(
    signals: RequestSignals,
    decode: ReplicaCandidate,
    prefill: Sequence[ReplicaCandidate],
    config: DisaggregationConfig,
    *,
    now_s: float,
) -> PathChoice:
    """Choose between `combined` and `disaggregated`.

    Args:
        signals: the request.
        decode: the replica already chosen to make the tokens, with its `cached_tokens` for this prompt.
        prefill: the prefill replicas of the model, whatever their state.
        config: from which prompt length on, and how long a prefill may have to wait.
        now_s: the instant of the decision, on the clock of `put_aside_until_s`.
    """
    against = _against(signals, decode, prefill, config, now_s=now_s)
    if against is None:
        return PathChoice(path=Path.DISAGGREGATED, reasons=(Reason.PROMPT_LONG,))
    return PathChoice(path=Path.COMBINED, reasons=(against,))


def _against(
    signals: RequestSignals,
    decode: ReplicaCandidate,
    prefill: Sequence[ReplicaCandidate],
    config: DisaggregationConfig,
    *,
    now_s: float,
) -> Reason | None:
    """The first reason not to split the request."""
    uncached_tokens = signals.prompt_tokens - decode.cached_tokens
    checks = (
        (not config.enabled, Reason.DISAGGREGATION_OFF),
        # Only a decode replica redeems tickets; prefill and combined replicas have nobody to hand over to.
        (not signals.splittable or decode.role is not Role.DECODE, Reason.NOT_SPLITTABLE),
        (signals.max_output_tokens == 0, Reason.NO_TOKENS_WANTED),
        (signals.prompt_tokens < config.uncached_tokens_min, Reason.PROMPT_SHORT),
        (uncached_tokens < config.uncached_tokens_min, Reason.PROMPT_CACHED_AT_DECODE),
    )
    for applies, reason in checks:
        if applies:
            return reason
    usable = [replica for replica in prefill if is_usable(replica, now_s=now_s)]
    if not usable:
        return Reason.NO_PREFILL_REPLICA
    if min(_wait_s(replica) for replica in usable) > config.prefill_wait_s_max:
        return Reason.PREFILL_BUSY
    # The decode replica may be the faster one by far: another GPU type, or simply free.
    there_s = min(predicted_ttft_s(signals.prompt_tokens, replica) for replica in usable)
    here_s = predicted_ttft_s(signals.prompt_tokens, decode)
    return Reason.PREFILL_SLOWER if there_s > here_s + config.ttft_loss_s_max else None


def _wait_s(replica: ReplicaCandidate) -> float:
    """Predicted seconds until the replica has computed what is ahead of this prompt."""
    if replica.pending_prefill_tokens <= 0:
        return 0.0
    if replica.prefill_tokens_per_s <= 0:
        return float("inf")
    return replica.pending_prefill_tokens / replica.prefill_tokens_per_s
