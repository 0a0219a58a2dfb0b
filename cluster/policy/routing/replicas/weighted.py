"""The composable policy: scorers in [0, 1], their weights from the configuration, the highest sum wins."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cluster.config.routing import ReplicaScorerName
from cluster.entities.pool import ReplicaId
from cluster.entities.routing import ReplicaChoice
from cluster.policy.routing.replicas.energy import request_energy_j
from cluster.policy.routing.replicas.interface import Situation, lowest, match_rate
from cluster.policy.routing.replicas.predicted import predicted_ttft_s

Scores = dict[ReplicaId, float]

_LLM_D: Mapping[ReplicaScorerName, float] = MappingProxyType({"prefix": 2.0, "kv": 1.0, "queue": 1.0})


def weighted(situation: Situation) -> ReplicaChoice:
    """By `routing.replicas.weights`. What is logged is what is missing to the best sum: lower is better."""
    return _by_weights(situation, situation.config.weights)


def llm_d(situation: Situation) -> ReplicaChoice:
    """llm-d's sample weights: prefix 2, KV cache 1, queue 1.

    Source: llm-d-inference-scheduler, scorers precise-prefix-cache, kv-cache-utilization and queue.
    """
    return _by_weights(situation, _LLM_D)


def _by_weights(situation: Situation, weights: Mapping[ReplicaScorerName, float]) -> ReplicaChoice:
    total = sum(weights.values())
    missing = {replica.replica_id: 1.0 for replica in situation.usable}
    for name, weight in weights.items():
        if weight > 0.0:
            for replica_id, score in SCORERS[name](situation).items():
                missing[replica_id] -= weight / total * score
    # Sums that differ by rounding alone are equal.
    return lowest(situation, {name: round(value, 12) for name, value in missing.items()})


def _prefix(situation: Situation) -> Scores:
    """Part of the prompt that is cached there."""
    return {r.replica_id: match_rate(situation.signals, r) for r in situation.usable}


def _kv(situation: Situation) -> Scores:
    """Part of the KV cache that is free."""
    return {r.replica_id: 1.0 - min(1.0, max(0.0, r.kv_cache_usage)) for r in situation.usable}


def _queue(situation: Situation) -> Scores:
    """1 for the shortest queue of requests without a first token, 0 for the longest."""
    return _from_least({r.replica_id: float(r.requests_waiting) for r in situation.usable})


def _load(situation: Situation) -> Scores:
    """1 for the fewest requests in flight, 0 for the most."""
    return _from_least({r.replica_id: float(r.requests_in_flight) for r in situation.usable})


def _work(situation: Situation) -> Scores:
    """Least predicted time to first token by the replica's own."""
    assumed = situation.config.assumed_prefill_tokens_per_s
    ttft_s = {
        r.replica_id: predicted_ttft_s(situation.signals.prompt_tokens, r, assumed_tokens_per_s=assumed)
        for r in situation.usable
    }
    return _by_ratio(ttft_s)


def _energy(situation: Situation) -> Scores:
    """Least energy for the request by the replica's own; all equal where one is not known."""
    assumed = situation.config.assumed_output_tokens
    energies = {
        r.replica_id: request_energy_j(situation.signals, r, assumed_output_tokens=assumed)
        for r in situation.usable
    }
    known = {name: energy_j for name, energy_j in energies.items() if energy_j is not None}
    return _by_ratio(known) if len(known) == len(energies) else dict.fromkeys(energies, 1.0)


def _from_least(values: Scores) -> Scores:
    most, least = max(values.values()), min(values.values())
    if most == least:
        return dict.fromkeys(values, 1.0)
    return {name: (most - value) / (most - least) for name, value in values.items()}


def _by_ratio(values: Scores) -> Scores:
    least = min(values.values())
    return {name: 1.0 if value <= least else least / value for name, value in values.items()}


SCORERS: Mapping[ReplicaScorerName, Callable[[Situation], Scores]] = MappingProxyType(
    {"prefix": _prefix, "kv": _kv, "queue": _queue, "load": _load, "work": _work, "energy": _energy}
)
