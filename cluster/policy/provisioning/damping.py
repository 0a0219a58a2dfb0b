"""From what would be best now to what is asked for: up at once, down slowly, never on stale news.

Everything is in seconds since stored instants, so that a slower loop does not damp more.
"""

from collections.abc import Iterable, Mapping
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
        memory: earlier changes.
        config: cool-downs, steps.
        limits: bounds of this moment.
        now_s: the instant, Unix time.
        stale: whether what is known of the pool or its demand is too old to take anything away.
        replaced: whether another pool takes over and its replicas are not all ready yet.
    """
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


def stabilised(
    peaks: tuple[tuple[float, float], ...], demand: float, *, now_s: float, hold_s: float
) -> tuple[float, tuple[tuple[float, float], ...]]:
    """The highest demand of the past window, so that a dip does not cost a start.

    Demand is held, not each pool's replicas: pools stand in for each other, and if each kept its own highest
    number, a mix that wavers would keep all of them.

    Args:
        peaks: what was remembered.
        demand: of now.
        now_s: the instant.
        hold_s: length of the window.

    Returns:
        The demand to plan for, and what to remember.
    """
    kept = tuple(peak for peak in peaks if peak[0] > now_s - hold_s and peak[1] > demand)
    return max((peak for _, peak in kept), default=demand), (*kept, (now_s, demand))


def steady(planned: float | None, demand: float, dead_band: float) -> float:
    """The demand to plan for: what was planned for before, as long as demand is little below it.

    Args:
        planned: before; None at first.
        demand: to be ready for now.
        dead_band: how far demand may be below, 0..1.
    """
    if planned is None or demand > planned or demand < planned * (1.0 - dead_band):
        return demand
    return planned


def hold_after_peak_s(pools: Iterable[PoolObservation], config: DampingConfig) -> float:
    """How long replicas are kept after they were last needed.

    At least the stabilisation window; longer where a start costs more energy than idling that long does: kept
    for as long as idling costs one start, the loss against knowing the future is bounded by a factor of two
    (the ski-rental rule).

    Args:
        pools: the pools of one model.
        config: the window.
    """
    break_even_s = max(
        (
            pool.performance.start_j / pool.performance.power.idle_w
            for pool in pools
            if pool.performance.power.idle_w > 0
        ),
        default=0.0,
    )
    return max(config.scale_down_window_s, min(_BREAK_EVEN_S_MAX, break_even_s))


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
    if replaced:
        return current, (Reason.HELD_UNTIL_REPLACED,)
    cooling = _within(memory.changed_down_at_s, now_s, config.cool_down_down_s) or _within(
        memory.changed_up_at_s, now_s, config.cool_down_down_s
    )
    if cooling:
        return current, (Reason.HELD_BY_COOL_DOWN,)
    if current - wish > config.step_down_max:
        return current - config.step_down_max, (Reason.DEMAND_FALLING, Reason.STEP_BOUNDED)
    return wish, (Reason.DEMAND_FALLING,)


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
