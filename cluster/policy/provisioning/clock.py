"""A clock that was set back: what is remembered of later instants would wait until they come again."""

from dataclasses import replace

from cluster.entities.fleet import PoolMemory, ProvisionerState, SeriesMemory


def set_back(state: ProvisionerState, now_s: float) -> ProvisionerState:
    """What is remembered, on a clock that says less than it said before; the same on any other.

    Everything is moved by as much as the clock was, so that the last decision lies where now is. Nothing that
    was learnt is lost, and what was to last some seconds lasts these.

    Args:
        state: what the last decision left.
        now_s: the instant, Unix time.
    """
    by_s = state.demand_seen_until_s - now_s
    if by_s <= 0:
        return state
    return replace(
        state,
        series={name: _series(memory, by_s) for name, memory in state.series.items()},
        pools={name: _pool(memory, by_s) for name, memory in state.pools.items()},
        peaks={
            name: tuple((at_s - by_s, peak) for at_s, peak in peaks) for name, peaks in state.peaks.items()
        },
        demand_seen_until_s=now_s,
    )


def _series(memory: SeriesMemory, by_s: float) -> SeriesMemory:
    pending = tuple((due_s - by_s, line, season) for due_s, line, season in memory.pending)
    return replace(memory, arrived_at_s=memory.arrived_at_s - by_s, pending=pending)


def _pool(memory: PoolMemory, by_s: float) -> PoolMemory:
    def earlier(at_s: float | None) -> float | None:
        return None if at_s is None else at_s - by_s

    return replace(
        memory,
        changed_up_at_s=earlier(memory.changed_up_at_s),
        changed_down_at_s=earlier(memory.changed_down_at_s),
        wishes=tuple((at_s - by_s, wish) for at_s, wish in memory.wishes),
        unplaceable_until_s=earlier(memory.unplaceable_until_s),
    )
