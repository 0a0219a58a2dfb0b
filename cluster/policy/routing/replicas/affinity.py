"""Policies that follow the longest cached prefix behind a gate on load: SGLang, Ray Serve LLM, AIBrix.

Their routers keep a tree of prompts per worker. Here the prefix index stands for the trees: a replica's match
is `cached_tokens`, the size of its tree the blocks that the index ever took in for it (Ray's tree drops
nothing by default, SGLang's little in an hour).
"""

import math
from dataclasses import replace

from cluster.entities.pool import ReplicaId
from cluster.entities.reasons import Reason
from cluster.entities.routing import ReplicaChoice
from cluster.policy.routing.replicas.counts import least_requests, power_of_two
from cluster.policy.routing.replicas.interface import Situation, lowest, match_rate


def sglang_cache_aware(situation: Situation) -> ReplicaChoice:
    """SGLang's router: the longest match if it is long enough, else the smallest tree; least load if unequal.

    Source: sgl-project/sglang, sgl-router, policy cache_aware: the gate is max − min > abs and
    max > rel·min, in requests.
    """
    baselines = situation.config.baselines
    loads = [replica.requests_in_flight for replica in situation.usable]
    most, least = max(loads), min(loads)
    if most - least > baselines.sglang_balance_abs and most > baselines.sglang_balance_rel * least:
        return _unequal(least_requests(situation))
    matches = _matches(situation)
    if max(matches.values()) > baselines.sglang_cache_threshold:
        return lowest(situation, {name: -match for name, match in matches.items()})
    return _smallest_tree(situation)


def ray_prefix_affinity(situation: Situation) -> ReplicaChoice:
    """Ray Serve LLM's PrefixCacheAffinityRouter: of those with the longest match the shortest queue.

    Below the least match rate it takes the smallest tree. Where queues differ by more than a threshold, which
    is infinite by default, it takes the power of two choices.
    """
    baselines = situation.config.baselines
    loads = [replica.requests_in_flight for replica in situation.usable]
    threshold = baselines.ray_imbalanced_threshold
    if threshold is not None and max(loads) - min(loads) > threshold:
        return _unequal(power_of_two(situation))
    matches = _matches(situation)
    best = max(matches.values())
    if best < baselines.ray_match_rate_min:
        return _smallest_tree(situation)
    queues = {
        r.replica_id: float(r.requests_in_flight) for r in situation.usable if matches[r.replica_id] == best
    }
    return lowest(situation, queues)


def aibrix(situation: Situation) -> ReplicaChoice:
    """AIBrix's prefix-cache router: the longest match among replicas that are not much busier than the mean.

    If running requests differ by more than 8, the fewest requests. Otherwise replicas in order of match, then
    of requests, and the first of them with at most the mean plus one standard deviation of requests.
    """
    baselines = situation.config.baselines
    loads = [replica.requests_in_flight for replica in situation.usable]
    if max(loads) - min(loads) > baselines.aibrix_imbalance_max:
        return _unequal(least_requests(situation))
    mean = sum(loads) / len(loads)
    bound = mean + math.sqrt(sum((load - mean) ** 2 for load in loads) / len(loads))
    matches = _matches(situation)
    within = [replica for replica in situation.usable if replica.requests_in_flight <= bound]
    best = max(matches[replica.replica_id] for replica in within)
    queues = {r.replica_id: float(r.requests_in_flight) for r in within if matches[r.replica_id] == best}
    return lowest(situation, queues)


def _matches(situation: Situation) -> dict[ReplicaId, float]:
    return {r.replica_id: match_rate(situation.signals, r) for r in situation.usable}


def _smallest_tree(situation: Situation) -> ReplicaChoice:
    return lowest(
        situation, {r.replica_id: situation.remembered.get(r.replica_id, 0.0) for r in situation.usable}
    )


def _unequal(choice: ReplicaChoice) -> ReplicaChoice:
    return replace(choice, reasons=(Reason.LOAD_IMBALANCED, *choice.reasons))
