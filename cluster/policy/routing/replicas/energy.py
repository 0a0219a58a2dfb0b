"""The energy that a request adds on a replica: what a choice between near-equals goes by.

Only what the request causes counts. A replica that is awake draws its idle power whoever is sent there, and
the sequences that decode there need their steps anyway; a request pays for its prompt and for what it adds to
those steps. A batch under way is therefore cheaper to join than an idle engine, and efficient hardware
cheaper than fast hardware, as far as waiting allows.
"""

from cluster.entities.performance import ReplicaPerformance
from cluster.entities.pool import MarginalEnergy, ReplicaCandidate, Role
from cluster.entities.workload import RequestSignals
from cluster.performance.latency import prefill_tokens_per_s, step_s
from cluster.performance.power import decode_w


def marginal_energy(
    performance: ReplicaPerformance, *, sequences: int, context_tokens: int
) -> MarginalEnergy:
    """What one more request makes a replica use above idle power.

    With b sequences decoding, P their power above idle and S the length of their steps, a token of one
    sequence more adds P(b + 1)·S(b + 1) − P(b)·S(b).

    Args:
        performance: speed and power of the replica's pool.
        sequences: b, decoding there now.
        context_tokens: tokens that they attend to.
    """
    idle_w = performance.power.idle_w
    before_s = step_s(performance, sequences=sequences, context_tokens=context_tokens, prefill_tokens=0.0)
    before_j = (decode_w(performance.power, sequences) - idle_w) * before_s if sequences > 0 else 0.0
    after_w = decode_w(performance.power, sequences + 1) - idle_w
    after_j = after_w * (before_s + performance.step_per_sequence_s)
    return MarginalEnergy(
        prefill_token_j=max(0.0, performance.power.prefill_w - idle_w) / prefill_tokens_per_s(performance),
        decode_token_j=max(0.0, after_j - before_j),
        context_token_j=max(0.0, after_w * performance.step_per_context_token_s),
    )


def request_energy_j(
    signals: RequestSignals, replica: ReplicaCandidate, *, assumed_output_tokens: int
) -> float | None:
    """Predicted joules that a request adds on a replica; None where its power is not known.

    Args:
        signals: the request.
        replica: a candidate with its `cached_tokens` for this prompt.
        assumed_output_tokens: length of the answer; the client's bound, if lower, is taken instead.
    """
    energy = replica.energy
    if energy is None:
        return None
    uncached = max(0, signals.prompt_tokens - replica.cached_tokens)
    prefill_j = energy.prefill_token_j * uncached
    if replica.role is Role.PREFILL:
        return prefill_j
    output = assumed_output_tokens
    if signals.max_output_tokens is not None:
        output = min(output, signals.max_output_tokens)
    context = signals.prompt_tokens + output / 2.0
    return prefill_j + output * (energy.decode_token_j + energy.context_token_j * context)
