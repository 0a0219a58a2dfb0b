"""Replica routing by name: filter, then the configured policy (`routing.replicas.policy`)."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from cluster.config.routing import ReplicaPolicyName, ReplicaRoutingConfig
from cluster.entities.pool import ReplicaCandidate, ReplicaId
from cluster.entities.reasons import Reason
from cluster.entities.routing import ReplicaChoice
from cluster.entities.workload import RequestSignals
from cluster.policy.routing.replicas.affinity import aibrix, ray_prefix_affinity, sglang_cache_aware
from cluster.policy.routing.replicas.counts import least_requests, power_of_two, random, round_robin
from cluster.policy.routing.replicas.dynamo import dynamo, dynamo_lmetric
from cluster.policy.routing.replicas.filters import FILTERS
from cluster.policy.routing.replicas.interface import Situation
from cluster.policy.routing.replicas.min_work import min_work, work_s
from cluster.policy.routing.replicas.preble import preble
from cluster.policy.routing.replicas.usable import has_room, is_put_aside, is_ready
from cluster.policy.routing.replicas.weighted import llm_d, weighted

POLICIES: Mapping[ReplicaPolicyName, Callable[[Situation], ReplicaChoice]] = MappingProxyType(
    {
        "min_work": min_work,
        "weighted": weighted,
        "random": random,
        "round_robin": round_robin,
        "least_requests": least_requests,
        "power_of_two": power_of_two,
        "sglang_cache_aware": sglang_cache_aware,
        "ray_prefix_affinity": ray_prefix_affinity,
        "llm_d": llm_d,
        "dynamo": dynamo,
        "dynamo_lmetric": dynamo_lmetric,
        "aibrix": aibrix,
        "preble": preble,
    }
)
_NOTHING: Mapping[ReplicaId, float] = MappingProxyType({})


def choose_replica(
    signals: RequestSignals,
    candidates: Sequence[ReplicaCandidate],
    config: ReplicaRoutingConfig,
    *,
    now_s: float,
    draw: float,
    remembered: Mapping[ReplicaId, float] = _NOTHING,
) -> ReplicaChoice:
    """Choose among the replicas that can take the request now.

    Args:
        signals: the request.
        candidates: the replicas that serve the request's model in the wanted role, whatever their state.
        config: policy, filters and weights.
        now_s: the instant of the decision, on the clock of `put_aside_until_s`.
        draw: a number in [0, 1) for whatever is left to chance.
        remembered: what the policy's memory says of the candidates.

    Returns:
        The choice with the candidates' scores; `replica_id` is None, with the reason, when none of them can
        take the request now.

    Raises:
        ValueError: the draw lies outside [0, 1).
    """
    if not 0.0 <= draw < 1.0:
        raise ValueError(f"draw must lie in [0, 1), not {draw!r}")
    ready = [replica for replica in candidates if is_ready(replica)]
    with_room = [replica for replica in ready if has_room(replica)]
    usable = [replica for replica in with_room if not is_put_aside(replica, now_s=now_s)]
    for name in config.filters:
        usable = FILTERS[name](signals, usable, config) or usable
    usable.sort(key=lambda replica: replica.replica_id)
    situation = Situation(
        signals=signals,
        ready=ready,
        usable=usable,
        config=config,
        remembered=remembered,
        now_s=now_s,
        draw=draw,
    )
    if not usable:
        reason = _why_none(ready=len(ready), with_room=len(with_room))
        return ReplicaChoice(replica_id=None, scores=work_s(signals, ready, config), reasons=(reason,))
    return POLICIES[config.policy](situation)


def _why_none(*, ready: int, with_room: int) -> Reason:
    if ready == 0:
        return Reason.NO_REPLICA
    return Reason.ALL_PUT_ASIDE if with_room else Reason.ALL_FULL
