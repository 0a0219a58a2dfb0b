"""Preble's E2: exploit a prefix that is longer than the rest of the prompt, otherwise explore by cost.

Source: Srivatsa et al., "Preble: efficient distributed prompt scheduling for LLM serving", arXiv 2407.00023.
The cost of a replica is the prefill that was sent to it in the last three minutes, what decodes there and the
prompt's own uncached part, in seconds. Preble profiles one GPU type, so one rate, the candidates' mean,
stands for all. The cost of eviction is left out: nobody tells a router what an engine would evict.
"""

from collections.abc import Iterable

from cluster.entities.pool import ReplicaCandidate, ReplicaId
from cluster.entities.reasons import Reason
from cluster.entities.routing import ReplicaChoice
from cluster.policy.routing.replicas.interface import Situation, lowest, uncached_tokens


def preble(situation: Situation) -> ReplicaChoice:
    """The replica of least cost, of those that hold most of the prompt if there are any.

    If the most loaded replica is chosen and carries more than 1.5 times the least loaded one's cost, the
    request goes to the least loaded one instead.
    """
    usable, signals = situation.usable, situation.signals
    rate = _mean(r.prefill_tokens_per_s for r in usable) or situation.config.assumed_prefill_tokens_per_s
    step_s = _mean(r.step_s for r in usable)
    output = situation.config.assumed_output_tokens
    loads = {
        r.replica_id: situation.remembered.get(r.replica_id, 0.0) / rate
        + r.requests_in_flight * output * step_s
        for r in usable
    }
    costs = {r.replica_id: loads[r.replica_id] + uncached_tokens(signals, r) / rate for r in usable}
    holders = [r for r in usable if r.cached_tokens > uncached_tokens(signals, r)]
    choice = lowest(situation, _of(costs, holders or usable))
    most, least = max(loads.values()), min(loads.values())
    chosen = choice.replica_id
    if (
        holders
        and chosen is not None
        and loads[chosen] == most
        and most > situation.config.baselines.preble_imbalance_max * least
    ):
        return lowest(situation, loads, Reason.LOAD_IMBALANCED)
    return choice


def _of(costs: dict[ReplicaId, float], replicas: Iterable[ReplicaCandidate]) -> dict[ReplicaId, float]:
    return {r.replica_id: costs[r.replica_id] for r in replicas}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
