"""The solution of the program that changes least, where that is about as good as the best."""

import math
from collections.abc import Callable
from dataclasses import replace

from cluster.policy.provisioning.commitment import Commitment, PoolColumn, Program, commit

_SOLVED_AT_MOST = 3
"""Programs for one answer."""


def commit_with_least_change(
    program: Program, tolerance: float, *, dearer: float, limit_s: float = math.inf
) -> Commitment:
    """The optimum, unless fewer changes are about as good.

    Args:
        program: what is to be solved.
        tolerance: nothing is started for a shortage within this share of the demand.
        dearer: pools are exchanged for each other only if the plan would else cost this share more.
        limit_s: how long it may take in all; if that was too short, the answer says so.
    """
    each_s = limit_s / _SOLVED_AT_MOST
    best = commit(program, limit_s=each_s)
    if best.stopped:
        return best
    changes = [count - column.present for column, count in zip(program.pools, best.replicas, strict=True)]
    if max(changes, default=0) <= 0:
        return best
    shrunk = _bounded(program, lambda pool: (pool.replicas_min, min(pool.replicas_max, pool.present)))
    eased = replace(shrunk, demands_per_s=tuple(rate * (1.0 - tolerance) for rate in program.demands_per_s))
    options = [eased]
    if min(changes) < 0:
        options.append(
            _bounded(
                program,
                lambda pool: (
                    max(pool.replicas_min, min(pool.present, pool.replicas_max)),
                    pool.replicas_max,
                ),
            )
        )
    stopped = False
    for option in options:
        found = commit(option, limit_s=each_s)
        stopped = stopped or found.stopped
        if _as_good(found, best, dearer):
            return replace(found, stopped=stopped)
    return replace(best, stopped=stopped)


def _bounded(program: Program, bounds: Callable[[PoolColumn], tuple[int, int]]) -> Program:
    pools = []
    for pool in program.pools:
        low, high = bounds(pool)
        pools.append(replace(pool, replicas_min=low, replicas_max=high))
    return replace(program, pools=tuple(pools))


def _as_good(found: Commitment, best: Commitment, tolerance: float) -> bool:
    served = sum(found.unserved_per_s) <= sum(best.unserved_per_s) + 1e-9
    seated = found.standing <= best.standing + 1e-9
    return served and seated and not found.capped and found.usd_per_h <= best.usd_per_h * (1.0 + tolerance)
