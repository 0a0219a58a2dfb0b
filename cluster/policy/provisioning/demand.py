"""The demand to plan for: forecast by class, held over its peaks, and what is under way."""

from collections.abc import Sequence
from dataclasses import replace

from cluster.config.provisioning import ForecastConfig
from cluster.config.root import TidemillConfig
from cluster.entities.fleet import (
    ClassDemand,
    ClassForecast,
    DemandWindow,
    FleetSnapshot,
    PoolObservation,
    ProvisionerState,
    SeriesMemory,
)
from cluster.entities.pool import Role
from cluster.performance.capacity import request_s
from cluster.policy.provisioning.carrying import mix_of
from cluster.policy.provisioning.damping import hold_after_peak_s, stabilised, steady
from cluster.policy.provisioning.forecast import forecast_class, lengthened, recent_half_life_s
from cluster.policy.workload_class import workload_classes

_UNDER_WAY = "#under_way"
"""Ends the names of peaks of requests under way; no model's name has a `#`."""


def forecast_demand(
    snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig
) -> tuple[dict[str, SeriesMemory], dict[str, tuple[float, float]], list[ClassForecast]]:
    """Take the snapshot's window in and forecast every class that was ever asked for.

    Returns:
        The new memories, what engines made, and the forecasts by model and rising prompt length.
    """
    window = _unseen(snapshot.demand, state.demand_seen_until_s)
    found = {(demand.model, demand.workload_class): demand for demand in window.classes}
    series: dict[str, SeriesMemory] = {}
    made_tokens: dict[str, tuple[float, float]] = {}
    forecasts: list[ClassForecast] = []
    for model in sorted({pool.model for pool in snapshot.pools}):
        horizon_s = _horizon_s(snapshot, model, config)
        answer_s = _answer_s(snapshot, model, state)
        of_model: list[ClassForecast] = []
        for name in workload_classes(config.provisioning.prompt_bands):
            key = f"{model}/{name}"
            demand = found.get((model, name))
            if demand is None:
                if key not in state.series:
                    continue
                demand = ClassDemand(model=model, workload_class=name)
            series[key], forecast = forecast_class(
                state.series.get(key, SeriesMemory()),
                demand,
                started_at_s=window.started_at_s,
                ended_at_s=window.ended_at_s,
                horizon_s=horizon_s,
                answer_s=answer_s,
                silence_s=config.provisioning.damping.scale_down_window_s,
                config=config.provisioning.forecast,
            )
            of_model.append(forecast)
        made = _made(snapshot, model, window, state, answer_s=answer_s, config=config.provisioning.forecast)
        if made is not None:
            made_tokens[model] = made
        memories = [series[f"{model}/{found.workload_class}"] for found in of_model]
        forecasts += lengthened(of_model, memories, made)
    return series, made_tokens, _together(forecasts)


def _made(
    snapshot: FleetSnapshot,
    model: str,
    window: DemandWindow,
    state: ProvisionerState,
    *,
    answer_s: float,
    config: ForecastConfig,
) -> tuple[float, float] | None:
    """Tokens that a model's engines made, and those of answers that ended, older windows counting less."""
    rates = [
        pool.output_tokens_per_s
        for pool in snapshot.pools
        if pool.model == model and pool.output_tokens_per_s is not None
    ]
    before = state.made_tokens.get(model)
    span_s = window.ended_at_s - window.started_at_s
    if not rates or span_s <= 0:
        return before
    keep = 0.5 ** (span_s / recent_half_life_s(answer_s, config))
    made, ended = before or (0.0, 0.0)
    finished = sum(demand.output_tokens for demand in window.classes if demand.model == model)
    return made * keep + sum(rates) * span_s, ended * keep + finished


def _answer_s(snapshot: FleetSnapshot, model: str, state: ProvisionerState) -> float:
    """How long answers take, by Little's law: requests under way by arrivals per second."""
    # In one order, so that a state read back from its file gives the same sum to the last bit.
    memories = (memory for key, memory in sorted(state.series.items()) if key.rpartition("/")[0] == model)
    rate = sum(memory.moments[4] / memory.moments[0] for memory in memories if memory.moments)
    return under_way(snapshot.pools, model) / rate if rate > 0 else 0.0


def under_way(pools: Sequence[PoolObservation], model: str) -> float:
    """Requests on the replicas that answer for a model."""
    return float(
        sum(
            replica.requests_running + replica.requests_waiting
            for pool in pools
            if pool.model == model and pool.role is not Role.PREFILL
            for replica in pool.replicas
        )
    )


def _together(forecasts: Sequence[ClassForecast]) -> list[ClassForecast]:
    """Narrow the bands of a model's classes: what errs independently does not err all at once."""
    squares: dict[str, float] = {}
    sums: dict[str, float] = {}
    for found in forecasts:
        width = found.arrivals_per_s - found.arrivals_mean_per_s
        squares[found.model] = squares.get(found.model, 0.0) + width * width
        sums[found.model] = sums.get(found.model, 0.0) + width
    narrowed = []
    for found in forecasts:
        share = squares[found.model] ** 0.5 / sums[found.model] if sums[found.model] > 0 else 0.0
        width = found.arrivals_per_s - found.arrivals_mean_per_s
        narrowed.append(replace(found, arrivals_per_s=found.arrivals_mean_per_s + share * width))
    return narrowed


def _unseen(window: DemandWindow, seen_until_s: float) -> DemandWindow:
    """The window, or one without length where it was counted already."""
    if window.started_at_s >= seen_until_s - 1e-6 and window.ended_at_s > window.started_at_s:
        return window
    return DemandWindow(started_at_s=window.ended_at_s, ended_at_s=window.ended_at_s)


def _horizon_s(snapshot: FleetSnapshot, model: str, config: TidemillConfig) -> float:
    starts_s = (
        pool.performance.start_s
        for pool in snapshot.pools
        if pool.model == model and config.pools[pool.pool].replicas.max > config.pools[pool.pool].replicas.min
    )
    settings = config.provisioning
    return max(settings.forecast.horizon_s_min, max(starts_s, default=0.0) + settings.period_s)


def _work(snapshot: FleetSnapshot, model: str, classes: Sequence[ClassForecast]) -> float:
    """Engine seconds per second that the forecasts ask for, were one of the model's pools to serve all."""
    performance = next(
        pool.performance for pool in snapshot.pools if pool.model == model and (pool.role is not Role.PREFILL)
    )
    return sum(found.arrivals_per_s * request_s(performance, mix_of(found)) for found in classes)


def held_demand(
    snapshot: FleetSnapshot,
    forecasts: Sequence[ClassForecast],
    state: ProvisionerState,
    config: TidemillConfig,
) -> tuple[list[ClassForecast], dict[str, tuple[tuple[float, float], ...]], dict[str, float]]:
    """Forecasts lifted to the most work of the scale-down window, and what to remember of it.

    Work is held, not arrivals: what a request asks for is known as roughly as how many come, and a plan that
    follows every estimate of it starts and drains a replica a minute.
    """
    damping = config.provisioning.damping
    planned: dict[str, float] = {}
    held: list[ClassForecast] = []
    peaks: dict[str, tuple[tuple[float, float], ...]] = {}
    for model in sorted({found.model for found in forecasts}):
        classes = [found for found in forecasts if found.model == model]
        work = _work(snapshot, model, classes)
        hold_s = hold_after_peak_s((pool for pool in snapshot.pools if pool.model == model), damping)
        peak, peaks[model] = stabilised(
            state.peaks.get(model, ()), work, now_s=snapshot.observed_at_s, hold_s=hold_s
        )
        planned[model] = steady(state.planned_work.get(model), peak, damping.dead_band)
        if work <= 0:
            # Silent for a whole window: there is nothing left to hold.
            planned[model], peaks[model] = 0.0, ()
        lift = planned[model] / work if work > 0 else 1.0
        held += [replace(found, arrivals_per_s=found.arrivals_per_s * lift) for found in classes]
    return held, peaks, planned


def seated_demand(
    snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig
) -> tuple[dict[str, float], dict[str, tuple[tuple[float, float], ...]]]:
    """Requests under way by model, held like demand: else every dip would cost what the next rise needs."""
    seated: dict[str, float] = {}
    peaks: dict[str, tuple[tuple[float, float], ...]] = {}
    for model in {pool.model for pool in snapshot.pools}:
        key = f"{model}{_UNDER_WAY}"
        seated[model], peaks[key] = stabilised(
            state.peaks.get(key, ()),
            under_way(snapshot.pools, model),
            now_s=snapshot.observed_at_s,
            hold_s=config.provisioning.damping.scale_down_window_s,
        )
    return seated, peaks
