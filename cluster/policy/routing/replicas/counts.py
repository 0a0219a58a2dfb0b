"""Policies that look at numbers of requests or at nothing: the baselines that every load balancer has.

Ties are broken by chance and never by position, so that equal replicas share traffic equally (in
vllm-project/router PR #198 the first of equals got all of it).
"""

from cluster.entities.routing import ReplicaChoice
from cluster.policy.routing.replicas.interface import Situation, by_chance, lowest, why


def random(situation: Situation) -> ReplicaChoice:
    """Any replica, all equally likely."""
    return by_chance(situation, situation.usable, {})


def round_robin(situation: Situation) -> ReplicaChoice:
    """The replica whose last turn is longest ago; those that had none come first.

    Its memory is the number of each replica's last turn, so replicas that come and go do not disturb the
    others' order.
    """
    turns = {r.replica_id: situation.remembered.get(r.replica_id, 0.0) for r in situation.usable}
    return lowest(situation, turns)


def least_requests(situation: Situation) -> ReplicaChoice:
    """The fewest requests in flight."""
    return lowest(situation, {r.replica_id: float(r.requests_in_flight) for r in situation.usable})


def power_of_two(situation: Situation) -> ReplicaChoice:
    """Of two replicas drawn at random the one with fewer requests in flight; of equals the first drawn.

    Source: Mitzenmacher, "The power of two choices in randomized load balancing", 1996.
    """
    usable = situation.usable
    scores = {r.replica_id: float(r.requests_in_flight) for r in usable}
    count = len(usable)
    if count == 1:
        return by_chance(situation, usable, scores)
    first, rest = divmod(int(situation.draw * count * (count - 1)), count - 1)
    second = rest + (rest >= first)
    one, other = usable[first], usable[second]
    chosen = other if other.requests_in_flight < one.requests_in_flight else one
    # Of the ordered pairs: both orders with each busier replica, one with each equal one.
    loads = [r.requests_in_flight for r in usable]
    busier = sum(1 for load in loads if load > chosen.requests_in_flight)
    equal = sum(1 for load in loads if load == chosen.requests_in_flight) - 1
    return ReplicaChoice(
        replica_id=chosen.replica_id,
        scores=scores,
        reasons=why(situation, chosen, tied=count),
        propensity=(2 * busier + equal) / (count * (count - 1)),
    )
