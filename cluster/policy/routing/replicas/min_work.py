"""Replica routing by least predicted work, in seconds.

The load is counted in uncached prompt tokens rather than requests, because prompts differ a hundredfold and
token counts do not lie about that. Affinity to a prefix cache needs no gate of its own: cached tokens are
work that need not be done, so a replica that holds the prefix wins until its backlog costs more than the
hit saves. Between replicas that would answer about equally soon, energy decides.
"""

from collections.abc import Sequence

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.pool import ReplicaCandidate, ReplicaId
from cluster.entities.reasons import Reason
from cluster.entities.routing import ReplicaChoice
from cluster.entities.workload import RequestSignals
from cluster.policy.routing.replicas.energy import request_energy_j
from cluster.policy.routing.replicas.interface import Situation, why
from cluster.policy.routing.replicas.predicted import predicted_ttft_s, stall_s

_KV_FULL = 0.95
"""From this usage on new prompts are likely to wait for blocks."""
_EQUAL_J = 1.01
"""Energies no further apart than this factor are equal, and the least work among them wins."""


def min_work(situation: Situation) -> ReplicaChoice:
    """The usable replica with the least predicted work, or the least energy among those close to it."""
    signals, usable, config = situation.signals, situation.usable, situation.config
    scores = work_s(signals, situation.ready, config)
    lowest_s = min(scores[replica.replica_id] for replica in usable)
    near = [replica for replica in usable if scores[replica.replica_id] <= lowest_s + config.energy_slack_s]
    energies_j = _energies_j(signals, near, config)
    frugal = usable
    if energies_j:
        bound_j = min(energies_j.values()) * _EQUAL_J
        frugal = [replica for replica in near if energies_j[replica.replica_id] <= bound_j]
    bound_s = min(scores[replica.replica_id] for replica in frugal) + config.tie_s
    tied = [replica for replica in frugal if scores[replica.replica_id] <= bound_s]
    chosen = tied[int(situation.draw * len(tied))]
    return ReplicaChoice(
        replica_id=chosen.replica_id,
        scores=scores,
        energies_j=energies_j,
        reasons=_reasons(
            situation,
            chosen,
            tied=len(tied),
            by_energy=scores[chosen.replica_id] > lowest_s + config.tie_s,
        ),
        propensity=1.0 / len(tied),
    )


def _energies_j(
    signals: RequestSignals, near: Sequence[ReplicaCandidate], config: ReplicaRoutingConfig
) -> dict[ReplicaId, float]:
    """What the request would cost on each; empty where energy has no say or one of them is not known."""
    if config.energy_slack_s <= 0 or len(near) < 2:
        return {}
    energies_j = {}
    for replica in near:
        energy_j = request_energy_j(signals, replica, assumed_output_tokens=config.assumed_output_tokens)
        if energy_j is None:
            return {}
        energies_j[replica.replica_id] = energy_j
    return energies_j


def work_s(
    signals: RequestSignals, replicas: Sequence[ReplicaCandidate], config: ReplicaRoutingConfig
) -> dict[ReplicaId, float]:
    """The score of each replica: predicted seconds."""
    return {r.replica_id: _score_s(signals.prompt_tokens, r, config) for r in replicas}


def _score_s(prompt_tokens: int, replica: ReplicaCandidate, config: ReplicaRoutingConfig) -> float:
    """Predicted seconds until the first token, plus what the requests decoding there slow it down."""
    ttft_s = predicted_ttft_s(
        prompt_tokens, replica, assumed_tokens_per_s=config.assumed_prefill_tokens_per_s
    )
    limit, usage = replica.max_concurrent_requests, replica.kv_cache_usage
    seats = replica.requests_in_flight / limit if limit > 0 else 1.0
    score_s = ttft_s + config.decode_weight_s * max(seats, usage)
    if config.stall_weight > 0.0:
        assumed = config.assumed_prefill_tokens_per_s
        score_s += config.stall_weight * stall_s(prompt_tokens, replica, assumed_tokens_per_s=assumed)
    # Where no block is free, a prompt waits until an answer ends or is thrown out, however fast prefill is.
    return score_s + (config.kv_full_s if usage >= _KV_FULL else 0.0)


def _reasons(
    situation: Situation, chosen: ReplicaCandidate, *, tied: int, by_energy: bool
) -> tuple[Reason, ...]:
    if not by_energy:
        return why(situation, chosen, tied=tied, best=Reason.LEAST_WORK)
    found = why(situation, chosen, tied=tied, best=Reason.LEAST_ENERGY)
    return found if Reason.LEAST_ENERGY in found else (Reason.LEAST_ENERGY, *found)
