"""What Kubernetes' Horizontal Pod Autoscaler does with a wish: the default `behavior` of autoscaling/v2.

Looked at every 15 s; left alone within a tolerance of 10 %; growing by at most 4 replicas or 100 %, whichever
is more, in 15 s; shrinking to the largest wish of the past 300 s.
Source: kubernetes.io, "Horizontal Pod Autoscaling", algorithm details and default behavior.
"""

from dataclasses import replace

from cluster.entities.fleet import PoolMemory

SYNC_PERIOD_S = 15.0
TOLERANCE = 0.1
SCALE_DOWN_WINDOW_S = 300.0
SCALE_UP_REPLICAS = 4
_EPSILON_S = 1e-6


def is_due(memory: PoolMemory, now_s: float) -> bool:
    """Whether the last look was long enough ago."""
    return not memory.wishes or now_s - memory.wishes[-1][0] >= SYNC_PERIOD_S - _EPSILON_S


def is_tolerated(ratio: float) -> bool:
    """Whether a metric is so close to its target that nothing changes.

    Args:
        ratio: metric over target.
    """
    return abs(ratio - 1.0) <= TOLERANCE


def behaved(wish: int, current: int, memory: PoolMemory, now_s: float) -> tuple[int, PoolMemory]:
    """The replicas to ask for, and what to remember.

    Args:
        wish: replicas by the metric.
        current: replicas asked for before.
        memory: the wishes of the window.
        now_s: the instant.
    """
    # What it finds at its first look counts as a wish.
    wishes = memory.wishes or ((now_s, current),)
    kept = tuple(earlier for earlier in wishes if earlier[0] > now_s - SCALE_DOWN_WINDOW_S)
    memory = replace(memory, wishes=(*kept, (now_s, wish)))
    if wish > current:
        return min(wish, current + max(SCALE_UP_REPLICAS, current)), memory
    return min(current, max(count for _, count in memory.wishes)), memory
