"""The one shape of all replica policies: a situation in, a choice out.

What a policy remembers between requests comes in as `remembered`, one number per replica, and is logged with
the decision. So every choice can be taken again from its log, whatever the policy and whatever it remembers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.pool import ReplicaCandidate, ReplicaId
from cluster.entities.reasons import Reason
from cluster.entities.routing import ReplicaChoice
from cluster.entities.workload import RequestSignals


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that a policy may look at. `usable` has at least one replica."""

    signals: RequestSignals
    ready: Sequence[ReplicaCandidate]
    """Candidates that take requests in principle."""
    usable: Sequence[ReplicaCandidate]
    """Those that can take this one now, ordered by id: the same draw then picks the same replica however the
    table was iterated."""
    config: ReplicaRoutingConfig
    remembered: Mapping[ReplicaId, float]
    """What the policy's memory says of each replica (`memory.py`); nothing of one that it does not know."""
    now_s: float
    draw: float
    """In [0, 1)."""


def lowest(situation: Situation, scores: dict[ReplicaId, float], *reasons: Reason) -> ReplicaChoice:
    """The usable replica with the lowest score; chance decides between equals.

    Args:
        situation: with its usable replicas.
        scores: of every replica that may be chosen.
        reasons: what else there is to say of the choice.
    """
    least = min(scores.values())
    equals = [replica for replica in situation.usable if scores.get(replica.replica_id) == least]
    return by_chance(situation, equals, scores, *reasons)


def by_chance(
    situation: Situation,
    equals: Sequence[ReplicaCandidate],
    scores: dict[ReplicaId, float],
    *reasons: Reason,
) -> ReplicaChoice:
    """One of several equals, each as likely as the others."""
    chosen = equals[int(situation.draw * len(equals))]
    return ReplicaChoice(
        replica_id=chosen.replica_id,
        scores=scores,
        reasons=(*reasons, *why(situation, chosen, tied=len(equals))),
        propensity=1.0 / len(equals),
    )


def why(
    situation: Situation, chosen: ReplicaCandidate, *, tied: int, best: Reason = Reason.BEST_SCORE
) -> tuple[Reason, ...]:
    """How the choice came about, and whether it probably holds a part of the prompt."""
    if len(situation.usable) == 1:
        reason = Reason.ONLY_CANDIDATE
    else:
        reason = Reason.TIE_BROKEN_BY_CHANCE if tied > 1 else best
    return (reason, Reason.PREFIX_CACHED) if chosen.cached_tokens > 0 else (reason,)


def uncached_tokens(signals: RequestSignals, replica: ReplicaCandidate) -> int:
    """Prompt tokens that would have to be computed there."""
    return max(0, signals.prompt_tokens - replica.cached_tokens)


def match_rate(signals: RequestSignals, replica: ReplicaCandidate) -> float:
    """Part of the prompt that the replica's prefix cache probably holds, 0..1."""
    if signals.prompt_tokens <= 0:
        return 0.0
    return min(1.0, max(0.0, replica.cached_tokens / signals.prompt_tokens))
