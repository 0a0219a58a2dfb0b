"""Filters that stand before every policy, by the names in `routing.replicas.filters`.

Whether a replica is ready, has room and answered last time is asked before them (`usable.py`), and prompts of
unfitting length do not come so far (`length_limits.py`). These express a preference: one that would leave
nobody is passed over.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from cluster.config.routing import ReplicaFilterName, ReplicaRoutingConfig
from cluster.entities.pool import ReplicaCandidate, ReplicaId
from cluster.entities.workload import RequestSignals
from cluster.policy.rendezvous import affinity
from cluster.policy.routing.replicas.predicted import predicted_ttft_s

Filter = Callable[[RequestSignals, Sequence[ReplicaCandidate], ReplicaRoutingConfig], list[ReplicaCandidate]]


def with_adapter(
    signals: RequestSignals, candidates: Sequence[ReplicaCandidate], config: ReplicaRoutingConfig
) -> list[ReplicaCandidate]:
    """Replicas that hold the request's LoRA adapter, and at most one more; all for a request without one.

    In a slot is better than in the host's memory. One that would have to load it is added where all that hold
    it are late, or none can take the request: always the same one (rendezvous hashing), so that an adapter in
    demand gains one home at a time and is not loaded everywhere at once.
    """
    if not signals.adapter or not candidates:
        return list(candidates)
    holders = [replica for replica in candidates if signals.adapter in replica.adapters]
    holders = holders or [replica for replica in candidates if signals.adapter in replica.adapters_in_host]
    ttft_s = _ttft_s(signals, candidates, config)
    others = [replica for replica in candidates if replica not in holders]
    if not others:
        return holders
    latest_s = min(ttft_s[replica.replica_id] for replica in others) + config.adapter_loss_s_max
    next_home = max(
        (replica for replica in others if ttft_s[replica.replica_id] <= latest_s),
        key=lambda replica: affinity(signals.adapter, replica.replica_id),
    )
    if holders and min(ttft_s[replica.replica_id] for replica in holders) <= (
        ttft_s[next_home.replica_id] + config.adapter_loss_s_max
    ):
        return holders
    return [*holders, next_home]


def home_of_session(
    signals: RequestSignals, candidates: Sequence[ReplicaCandidate], config: ReplicaRoutingConfig
) -> list[ReplicaCandidate]:
    """The session's home, as long as its first token is not predicted to come much later than elsewhere.

    A session's home is the candidate with the highest hash of session and replica (rendezvous hashing): every
    router finds the same one without being told, and a replica that leaves moves its own sessions only.
    """
    if not signals.session or not candidates:
        return list(candidates)
    home = max(candidates, key=lambda replica: affinity(signals.session, replica.replica_id))
    ttft_s = _ttft_s(signals, candidates, config)
    late = ttft_s[home.replica_id] > min(ttft_s.values()) + config.session_loss_s_max
    return list(candidates) if late else [home]


def _ttft_s(
    signals: RequestSignals, candidates: Sequence[ReplicaCandidate], config: ReplicaRoutingConfig
) -> dict[ReplicaId, float]:
    return {
        replica.replica_id: predicted_ttft_s(
            signals.prompt_tokens, replica, assumed_tokens_per_s=config.assumed_prefill_tokens_per_s
        )
        for replica in candidates
    }


FILTERS: Mapping[ReplicaFilterName, Filter] = MappingProxyType(
    {"adapter": with_adapter, "session": home_of_session}
)
