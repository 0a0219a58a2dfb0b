"""What could have been reached by somebody who knows the true utilities, and the past or the future.

`static_values`: the best set that never changes, known in hindsight; other adapters are paged through a slot
of their own at their price. `belady_value`: the future is known; who leaves is who is needed again last
(Belady 1966), and how much of a price is held against a page-in is the best of a grid, in hindsight, too.
"""

from itertools import combinations

import numpy as np

from load_tests.paging.world import Case, Numbers, World

_EXACT_SETS_MAX = 2000
_CHUNK = 256
_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def effective(found: World) -> Numbers:
    """Utilities as they can be had: an adapter is none before it arrives, a named one is the only one."""
    utility = np.where(np.arange(len(found.x))[:, None] >= found.arrives, found.utility, -np.inf)
    rows = np.flatnonzero(found.named >= 0)
    only = np.full((len(rows), utility.shape[1]), -np.inf)
    only[np.arange(len(rows)), found.named[rows]] = found.utility[rows, found.named[rows]]
    utility[rows] = only
    return utility


def static_values(case: Case, found: World) -> Numbers:
    """Per request: what the best unchanging set gets."""
    utility = effective(found)
    paged = (utility - found.price).max(axis=1)
    adapters, slots = utility.shape[1], case.planned_slots
    rows: tuple[int, ...] = ()
    sets = list(combinations(range(adapters), slots)) if adapters <= 15 else []
    if 0 < len(sets) <= _EXACT_SETS_MAX:
        totals = np.zeros(len(sets))
        index = np.array(sets)
        for start in range(0, len(utility), _CHUNK):
            part = utility[start : start + _CHUNK]
            best = part[:, index[:, 0]]
            for column in range(1, slots):
                best = np.maximum(best, part[:, index[:, column]])
            totals += np.maximum(best, paged[start : start + _CHUNK, None]).sum(axis=0)
        rows = sets[int(totals.argmax())]
    else:
        rows = _greedy_with_swaps(utility, paged, slots)
    best_of_set: Numbers = utility[:, list(rows)].max(axis=1)
    return np.asarray(np.maximum(best_of_set, paged))


def _greedy_with_swaps(utility: Numbers, paged: Numbers, slots: int) -> tuple[int, ...]:
    rows: list[int] = []
    current = paged
    while len(rows) < slots:
        row = int(np.maximum(utility, current[:, None]).sum(axis=0).argmax())
        rows.append(row)
        current = np.maximum(current, utility[:, row])
    improved = True
    while improved:
        improved = False
        for place in range(slots):
            others = rows[:place] + rows[place + 1 :]
            without = np.maximum(paged, utility[:, others].max(axis=1)) if others else paged
            totals = np.maximum(utility, without[:, None]).sum(axis=0)
            row = int(totals.argmax())
            if totals[row] > totals[rows[place]] + 1e-9:
                rows[place] = row
                improved = True
    return tuple(rows)


def belady_value(case: Case, found: World) -> float:
    """Mean net utility per request."""
    utility = effective(found)
    best = max(_belady(case, found, utility, share) for share in _SHARES)
    return max(best, float(static_values(case, found).mean()))


def _belady(case: Case, found: World, utility: Numbers, share: float) -> float:
    """One pass: the best adapter less a share of its price; who is wanted again last leaves."""
    requests, adapters = utility.shape
    wanted = utility.argmax(axis=1)
    following = np.full(requests, requests)
    last = np.full(adapters, requests)
    for t in range(requests - 1, -1, -1):
        following[t] = last[wanted[t]]
        last[wanted[t]] = t
    again = last.copy()
    charge = found.price.copy()
    resident: list[int] = []
    slots = case.planned_slots + 1
    total = 0.0
    for t in range(requests):
        row = int((utility[t] - share * charge).argmax())
        again[wanted[t]] = following[t]
        total += float(utility[t, row])
        if row not in resident:
            total -= float(found.price[row])
            if len(resident) == slots:
                leaver = max(resident, key=lambda each: again[each])
                resident.remove(leaver)
                charge[leaver] = found.price[leaver]
            resident.append(row)
            charge[row] = 0.0
    return float(total / requests)
