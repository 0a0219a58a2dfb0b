"""Filters that stand before every policy, by the names in `routing.replicas.filters`.

Whether a replica is ready, has room and answered last time is asked before them (`usable.py`), and prompts of
unfitting length do not come so far (`length_limits.py`). These express a preference: one that would leave
nobody is passed over.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from cluster.config.routing import ReplicaFilterName, ReplicaRoutingConfig
from cluster.entities.pool import ReplicaCandidate
from cluster.entities.workload import RequestSignals
from cluster.policy.routing.replicas.predicted import predicted_ttft_s

Filter = Callable[[RequestSignals, Sequence[ReplicaCandidate], ReplicaRoutingConfig], list[ReplicaCandidate]]


def with_adapter(
    signals: RequestSignals, candidates: Sequence[ReplicaCandidate], _config: ReplicaRoutingConfig
) -> list[ReplicaCandidate]:
    """Replicas that hold the request's LoRA adapter; all of them for a request without one."""
    if not signals.adapter:
        return list(candidates)
    return [replica for replica in candidates if signals.adapter in replica.adapters]


def home_of_session(
    signals: RequestSignals, candidates: Sequence[ReplicaCandidate], config: ReplicaRoutingConfig
) -> list[ReplicaCandidate]:
    """The session's home, as long as its first token is not predicted to come much later than elsewhere.

    A session's home is the candidate with the highest hash of session and replica (rendezvous hashing): every
    router finds the same one without being told, and a replica that leaves moves its own sessions only.
    """
    if not signals.session or not candidates:
        return list(candidates)
    home = max(candidates, key=lambda replica: _affinity(signals.session, replica.replica_id))
    ttft_s = {
        replica.replica_id: predicted_ttft_s(
            signals.prompt_tokens, replica, assumed_tokens_per_s=config.assumed_prefill_tokens_per_s
        )
        for replica in candidates
    }
    late = ttft_s[home.replica_id] > min(ttft_s.values()) + config.session_loss_s_max
    return list(candidates) if late else [home]


def _affinity(session: str, replica_id: str) -> bytes:
    return hashlib.blake2b(f"{session}\0{replica_id}".encode(), digest_size=8).digest()


FILTERS: Mapping[ReplicaFilterName, Filter] = MappingProxyType(
    {"adapter": with_adapter, "session": home_of_session}
)
