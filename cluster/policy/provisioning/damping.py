"""From what would be best now to what is asked for: up at once, down slowly, never on stale news.

Everything is in seconds since stored instants, so that a slower loop does not damp more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.config.provisioning import DampingConfig
from cluster.entities.fleet import PoolMemory, PoolObservation, ReplicaStage
from cluster.entities.reasons import Reason
from cluster.policy.provisioning.program import PoolLimits

_BREAK_EVEN_S_MAX = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DampedTarget:
    """What is asked for of one pool, and why."""

    replicas: int
    memory: PoolMemory
    reasons: tuple[Reason, ...]


def damped(
    pool: PoolObservation,
    wish: int,
    memory: PoolMemory,
    config: DampingConfig,
    *,
    limits: PoolLimits,
    now_s: float,
    stale: bool,
    replaced: bool,
) -> DampedTarget:
    """Damp one pool's wish.

    Args:
        pool: the pool as it is.
        wish: replicas that would be best now.
        memory: earlier wishes and changes.
        config: windows, cool-downs, steps.
        limits: bounds of this moment.
        now_s: the instant, Unix time.
        stale: whether what is known of the pool or its demand is too old to take anything away.
        replaced: whether another pool takes over and its replicas are not all ready yet.
    """
    hold_s = hold_after_peak_s(pool, config)
    wishes = _remembered(memory.wishes, now_s, wish, hold_s)
    memory = replace(memory, wishes=wishes)
    # Without a plan so far, what runs is what was wanted.
    current = pool.replicas_wanted
    if wish > current:
        target, reasons = _up(wish, current, memory, config, now_s)
    else:
        target, reasons = _down(wish, current, memory, config, now_s=now_s, stale=stale, replaced=replaced)
    target = min(max(target, limits.replicas_min), max(limits.replicas_min, limits.replicas_max))
    if stale:
        # Nothing is taken away on old news, whatever the bounds of the moment say.
        target = max(target, current)
    if target > current:
        memory = replace(memory, changed_up_at_s=now_s)
    elif target < current:
        memory = replace(memory, changed_down_at_s=now_s)
    return DampedTarget(replicas=target, memory=memory, reasons=reasons)


def hold_after_peak_s(pool: PoolObservation, config: DampingConfig) -> float:
    """How long a replica is kept after it was last needed.

    At least the stabilisation window; longer where a start costs more energy than idling that long does: kept
    for as long as idling costs one start, the loss against knowing the future is bounded by a factor of two
    (the ski-rental rule).
    """
    idle_w = pool.performance.power.idle_w
    break_even_s = pool.performance.start_j / idle_w if idle_w > 0 else 0.0
    return max(config.scale_down_window_s, min(_BREAK_EVEN_S_MAX, break_even_s))


def _remembered(
    wishes: tuple[tuple[float, int], ...], now_s: float, wish: int, hold_s: float
) -> tuple[tuple[float, int], ...]:
    """Wishes of the window, without those that a later and larger one makes irrelevant."""
    kept = [(at_s, count) for at_s, count in wishes if at_s > now_s - hold_s and count > wish]
    return (*kept, (now_s, wish))


def _up(
    wish: int, current: int, memory: PoolMemory, config: DampingConfig, now_s: float
) -> tuple[int, tuple[Reason, ...]]:
    if _within(memory.changed_up_at_s, now_s, config.cool_down_up_s):
        return current, (Reason.HELD_BY_COOL_DOWN,)
    if wish - current > config.step_up_max:
        return current + config.step_up_max, (Reason.DEMAND_RISING, Reason.STEP_BOUNDED)
    return wish, (Reason.DEMAND_RISING,)


def _down(
    wish: int,
    current: int,
    memory: PoolMemory,
    config: DampingConfig,
    *,
    now_s: float,
    stale: bool,
    replaced: bool,
) -> tuple[int, tuple[Reason, ...]]:
    if wish == current or stale:
        return current, (Reason.UNCHANGED if wish == current else Reason.STALE_OBSERVATION,)
    in_window = [
        at_s > now_s - config.scale_down_window_s for at_s, count in memory.wishes if count >= current
    ]
    highest = max(count for _, count in memory.wishes)
    if highest >= current:
        return current, (Reason.HELD_BY_STABILISATION if any(in_window) else Reason.HELD_BY_BREAK_EVEN,)
    if replaced:
        return current, (Reason.HELD_UNTIL_REPLACED,)
    cooling = _within(memory.changed_down_at_s, now_s, config.cool_down_down_s) or _within(
        memory.changed_up_at_s, now_s, config.cool_down_down_s
    )
    if cooling:
        return current, (Reason.HELD_BY_COOL_DOWN,)
    if current - highest > config.step_down_max:
        return current - config.step_down_max, (Reason.DEMAND_FALLING, Reason.STEP_BOUNDED)
    return highest, (Reason.DEMAND_FALLING,)


def _within(at_s: float | None, now_s: float, span_s: float) -> bool:
    return at_s is not None and now_s - at_s < span_s


def awaited_models(
    pools: Mapping[str, PoolObservation], wishes: Mapping[str, int]
) -> dict[str, frozenset[str]]:
    """By model, the pools that are to grow or whose wanted replicas are not all ready yet."""
    awaited: dict[str, set[str]] = {}
    for name, pool in pools.items():
        if pool.count(ReplicaStage.READY) < wishes[name]:
            awaited.setdefault(pool.model, set()).add(name)
    return {model: frozenset(names) for model, names in awaited.items()}
