"""Unit commitment: which integer numbers of replicas carry a demand at the least cost.

The program, solved exactly by HiGHS (a mixed-integer solver that SciPy ships):

    minimise    Σ_p (fixed_p·n_p + starting_p·u_p) + Σ_f marginal_f·x_f
                + Σ_d penalty_d·s_d + Σ_h penalty_h·v_h
    subject to  Σ_{f of d} x_f + s_d = demand_d            every request is served or counted as unserved
                Σ_f uses_fp·x_f ≤ n_p                      within what the replicas carry
                Σ_p seats_hp·n_p + v_h ≥ requests_h        what is under way has a seat
                u_p ≥ n_p − present_p                      what has to be started
                Σ_p watts_p·n_p + Σ_f watts_f·x_f ≤ cap    hard
                min_p ≤ n_p ≤ max_p, n_p integer

A flow is one way to serve one workload class: by one pool, or prompts by one and answers by another, which
is how the balance of prefill and decode replicas comes out of the same program.

Programs of this kind take milliseconds. Should one take longer than it may, the best solution found by then
is taken, or what is there stays, and the plan says so: which solution that is hangs on the machine.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

_REMAINDER = 1e-6
_LIMIT_REACHED = 1
"""Status of `milp`."""
_SCALE = 1000.0
"""Costs in thousandths of a dollar: of the size of the other numbers, as solvers like it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolColumn:
    """One pool in the program."""

    pool: str
    replicas_min: int
    replicas_max: int
    present: int
    """Replicas that need no start."""
    usd_per_h: float
    """Of one replica, whatever it does."""
    start_usd_per_h: float
    """On top for one that has to be started."""
    watts: float
    """Of one replica, whatever it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One way to serve one demand; everything is per request/s."""

    demand: int
    """Which of the program's demands."""
    uses: tuple[tuple[int, float], ...]
    """(which of the program's pools, how many of its replicas a request per second takes)."""
    usd_per_h: float
    watts: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Requests that are under way, whatever the forecast says: longer answers show here first."""

    requests: float
    seats: tuple[tuple[int, float], ...]
    """(which of the program's pools, requests that one of its replicas holds within the objectives)."""
    penalty_usd_per_h: float
    """Of a request without a seat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is to be solved."""

    pools: tuple[PoolColumn, ...]
    demands_per_s: tuple[float, ...]
    penalties_usd_per_h: tuple[float, ...]
    """Of a request per second that is not served, by demand."""
    flows: tuple[Flow, ...]
    holdings: tuple[Holding, ...] = ()
    power_cap_w: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """The solution."""

    replicas: tuple[int, ...]
    """By pool of the program."""
    flows_per_s: tuple[float, ...]
    """By flow of the program."""
    unserved_per_s: tuple[float, ...]
    """By demand of the program."""
    standing: float
    """Requests under way without a seat."""
    usd_per_h: float
    """Without penalties."""
    power_w: float
    capped: bool = False
    """Whether the power cap could not be met even with every pool at its minimum."""
    stopped: bool = False
    """Whether the solver's time was over before it knew the best solution."""


class _StoppedError(Exception):
    """The solver's time was over. An exception, so that what came of it is not kept for the next time."""

    def __init__(self, found: Commitment) -> None:
        super().__init__()
        self.found = found


def commit(program: Program, *, limit_s: float = math.inf) -> Commitment:
    """Solve a program. Equal programs have equal solutions; a solution exists for every program.

    Args:
        program: pools, demands and the ways to serve them.
        limit_s: how long the solver may take; a solution that it stopped at says so.
    """
    try:
        return _optimum(program, limit_s)
    except _StoppedError as stopped:
        return stopped.found


@lru_cache(maxsize=4096)  # 5 kB each
def _optimum(program: Program, limit_s: float) -> Commitment:
    lowest_w = sum(pool.watts * pool.replicas_min for pool in program.pools)
    cap_w = program.power_cap_w
    if cap_w is not None and lowest_w > cap_w:
        # Not even the minimum fits: the minimum it is, and whatever it carries is carried.
        found = _solved(program, None, at_minimum=True, limit_s=limit_s)
    else:
        found = _solved(program, cap_w, at_minimum=False, limit_s=limit_s)
    if found.stopped:
        raise _StoppedError(found)
    return found


def _solved(program: Program, cap_w: float | None, *, at_minimum: bool, limit_s: float) -> Commitment:
    pools, flows, demands = len(program.pools), len(program.flows), len(program.demands_per_s)
    # Columns: replicas, starts, flows, unserved, without a seat.
    starts, first_flow, first_unserved = pools, 2 * pools, 2 * pools + flows
    first_standing = first_unserved + demands
    width = first_standing + len(program.holdings)
    cost = np.zeros(width)
    upper = np.full(width, np.inf)
    lower = np.zeros(width)
    first_holding = demands + 2 * pools
    rows = first_holding + len(program.holdings) + (cap_w is not None)
    matrix = np.zeros((rows, width))
    row_low, row_high = np.full(rows, -np.inf), np.zeros(rows)
    for place, pool in enumerate(program.pools):
        cost[place], cost[starts + place] = pool.usd_per_h, pool.start_usd_per_h
        lower[place] = pool.replicas_min
        upper[place] = pool.replicas_min if at_minimum else max(pool.replicas_min, pool.replicas_max)
        matrix[demands + place, place] = -1.0
        started = demands + pools + place
        matrix[started, place], matrix[started, starts + place] = 1.0, -1.0
        row_high[started] = pool.present
    for place, flow in enumerate(program.flows):
        column = first_flow + place
        cost[column] = flow.usd_per_h
        matrix[flow.demand, column] = 1.0
        for pool_place, replicas in flow.uses:
            matrix[demands + pool_place, column] += replicas
    for place, rate in enumerate(program.demands_per_s):
        cost[first_unserved + place] = program.penalties_usd_per_h[place]
        matrix[place, first_unserved + place] = 1.0
        row_low[place] = row_high[place] = rate
    for place, holding in enumerate(program.holdings):
        cost[first_standing + place] = holding.penalty_usd_per_h
        matrix[first_holding + place, first_standing + place] = 1.0
        for pool_place, seats in holding.seats:
            matrix[first_holding + place, pool_place] = seats
        row_low[first_holding + place], row_high[first_holding + place] = holding.requests, np.inf
    if cap_w is not None:
        matrix[-1, :pools] = [pool.watts for pool in program.pools]
        matrix[-1, first_flow:first_unserved] = [flow.watts for flow in program.flows]
        row_high[-1] = cap_w
    integrality = np.zeros(width)
    integrality[:pools] = 1
    found = milp(
        cost * _SCALE,
        constraints=LinearConstraint(matrix, row_low, row_high),
        bounds=Bounds(lower, upper),
        integrality=integrality,
        options={"mip_rel_gap": 1e-4, "time_limit": limit_s},
    )
    stopped = found.status == _LIMIT_REACHED
    if found.x is None:
        # For want of time only: with sound numbers, serving nothing at the minimum is a solution.
        return replace(_unsolved(program), stopped=stopped)
    solution = _commitment(program, found.x, first_flow, first_unserved, capped=at_minimum)
    return replace(solution, stopped=True) if stopped else solution


def _commitment(
    program: Program,
    solution: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    first_flow: int,
    first_unserved: int,
    *,
    capped: bool,
) -> Commitment:
    replicas = tuple(round(float(count)) for count in solution[: len(program.pools)])
    flows = tuple(max(0.0, float(rate)) for rate in solution[first_flow:first_unserved])
    unserved = tuple(
        float(rate) if rate > _REMAINDER * max(1.0, wanted) else 0.0
        for rate, wanted in zip(solution[first_unserved:], program.demands_per_s, strict=False)
    )
    standing = float(solution[first_unserved + len(program.demands_per_s) :].sum())
    return _valued(program, replicas, flows, unserved, standing=standing, capped=capped)


def _unsolved(program: Program) -> Commitment:
    """Without a solution what is there stays, for it serves somebody; a power cap is kept all the same."""
    replicas = tuple(min(max(pool.present, pool.replicas_min), pool.replicas_max) for pool in program.pools)
    watts = sum(pool.watts * count for pool, count in zip(program.pools, replicas, strict=True))
    if program.power_cap_w is not None and watts > program.power_cap_w:
        replicas = tuple(pool.replicas_min for pool in program.pools)
    flows = (0.0,) * len(program.flows)
    standing = sum(holding.requests for holding in program.holdings)
    return _valued(program, replicas, flows, program.demands_per_s, standing=standing, capped=True)


def _valued(
    program: Program,
    replicas: tuple[int, ...],
    flows: tuple[float, ...],
    unserved: tuple[float, ...],
    *,
    standing: float,
    capped: bool,
) -> Commitment:
    pooled = tuple(zip(program.pools, replicas, strict=True))
    flowing = tuple(zip(program.flows, flows, strict=True))
    return Commitment(
        replicas=replicas,
        flows_per_s=flows,
        unserved_per_s=unserved,
        standing=standing,
        usd_per_h=sum(pool.usd_per_h * count for pool, count in pooled)
        + sum(flow.usd_per_h * rate for flow, rate in flowing),
        power_w=sum(pool.watts * count for pool, count in pooled)
        + sum(flow.watts * rate for flow, rate in flowing),
        capped=capped,
    )
