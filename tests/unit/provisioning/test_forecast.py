"""Forecasts of one workload class."""

import numpy as np
import pytest

from cluster.config.provisioning import ForecastConfig
from cluster.entities.fleet import ClassDemand, SeriesMemory
from cluster.policy.provisioning.forecast import forecast_class, lengthened

CONFIG = ForecastConfig()


def _run(rates, *, window_s=10.0, horizon_s=60.0, config=CONFIG, seed=None, hits=lambda _: 0.0):
    memory, at_s, forecasts = SeriesMemory(), 0.0, []
    rng = np.random.default_rng(seed)
    for step, rate in enumerate(rates):
        asked = round(rate * window_s) if seed is None else int(rng.poisson(rate * window_s))
        cached = round(hits(step) * asked)
        count = asked - cached
        demand = ClassDemand(
            model="m",
            workload_class="0-",
            arrivals=count,
            cache_hits=cached,
            prompt_tokens=100 * count,
            completions=count,
            output_tokens=20 * count,
            completed_prompt_tokens=100 * count,
            cached_prompt_tokens=25 * count,
            attended_tokens=20.0 * 110 * count,
            prompt_tokens_squared=1e4 * count,
        )
        memory, forecast = forecast_class(
            memory,
            demand,
            started_at_s=at_s,
            ended_at_s=at_s + window_s,
            horizon_s=horizon_s,
            silence_s=1e9,
            answer_s=10.0,
            config=config,
        )
        at_s += window_s
        forecasts.append(forecast)
    return memory, forecasts


def test_constant_demand_is_forecast_as_it_is():
    _, forecasts = _run([20.0] * 100)
    assert forecasts[-1].arrivals_mean_per_s == pytest.approx(20.0, rel=0.01)
    assert forecasts[-1].arrivals_per_s >= 20.0


def test_what_the_cache_answers_is_not_planned_for():
    _, forecasts = _run([20.0] * 100, hits=lambda _: 0.4)
    assert forecasts[-1].arrivals_mean_per_s == pytest.approx(12.0, rel=0.01)


def test_an_emptied_cache_is_planned_for_within_two_minutes_and_is_no_slope():
    _, forecasts = _run([20.0] * 140, hits=lambda step: 0.5 if step < 100 else 0.0)
    assert forecasts[99].arrivals_mean_per_s == pytest.approx(10.0, rel=0.02)
    assert forecasts[111].arrivals_mean_per_s > 18.0
    assert max(found.arrivals_mean_per_s for found in forecasts[100:]) < 20.5, "no more than clients ask"


def test_a_slope_is_carried_on_over_the_horizon():
    _, forecasts = _run([10.0 + 0.5 * step for step in range(80)])
    assert forecasts[-1].arrivals_mean_per_s > 10.0 + 0.5 * 79, "what comes in a minute, not what was"


def test_noise_is_not_taken_for_a_slope():
    _, forecasts = _run([30.0] * 200, seed=1)
    means = [forecast.arrivals_mean_per_s for forecast in forecasts[100:]]
    assert max(means) < 36.0
    assert min(means) > 25.0


def test_a_jump_is_followed_within_two_minutes():
    _, forecasts = _run([10.0] * 60 + [50.0] * 12, seed=2)
    assert forecasts[-1].arrivals_mean_per_s > 40.0


def test_the_band_widens_where_forecasts_were_wrong():
    calm, _ = _run([20.0] * 200)
    wild, _ = _run([10.0 if step // 7 % 2 else 30.0 for step in range(200)])
    assert wild.errors[0] > calm.errors[0]


def test_lengths_are_means_per_request():
    _, forecasts = _run([5.0] * 10)
    last = forecasts[-1]
    assert (last.prompt_tokens, last.output_tokens, last.cached_fraction) == pytest.approx((100, 20, 0.25))
    assert last.context_tokens == pytest.approx(110)


def test_yesterday_is_remembered():
    def rate(step):
        return 40.0 if 0.5 <= step / 288 % 1.0 < 0.6 else 5.0

    config = ForecastConfig(season_bins=288)
    memory, forecasts = _run(
        [rate(step) for step in range(288 * 3 + 143)], window_s=300.0, horizon_s=600.0, config=config
    )
    assert len(memory.season) == 288
    assert forecasts[-1].arrivals_mean_per_s > 10.0, "the daily crowd is minutes away"


def test_a_window_without_length_teaches_nothing():
    memory, _ = _run([5.0] * 3)
    empty = ClassDemand(model="m", workload_class="0-")
    after, _ = forecast_class(
        memory,
        empty,
        started_at_s=30.0,
        ended_at_s=30.0,
        horizon_s=60.0,
        silence_s=1e9,
        answer_s=10.0,
        config=CONFIG,
    )
    assert after == memory


def test_after_a_long_silence_nothing_is_expected():
    memory, _ = _run([5.0] * 30)
    silent = ClassDemand(model="m", workload_class="0-")
    _, forecast = forecast_class(
        memory,
        silent,
        started_at_s=300.0,
        ended_at_s=700.0,
        horizon_s=60.0,
        silence_s=300.0,
        answer_s=10.0,
        config=CONFIG,
    )
    assert forecast.arrivals_per_s == 0.0


def _asked(memory, *, output_tokens, windows, at_s, per_s=5, period_s=10.0):
    """So many windows in which answers of one length come to an end."""
    forecast = None
    for _ in range(windows):
        at_s += period_s
        count = int(per_s * period_s)
        demand = ClassDemand(
            model="m",
            workload_class="0-512",
            arrivals=count,
            prompt_tokens=100 * count,
            prompt_tokens_squared=1e4 * count,
            completions=count,
            completed_prompt_tokens=100 * count,
            output_tokens=output_tokens * count,
            attended_tokens=output_tokens * count * (100.0 + output_tokens / 2),
        )
        memory, forecast = forecast_class(
            memory,
            demand,
            started_at_s=at_s - period_s,
            ended_at_s=at_s,
            horizon_s=60.0,
            silence_s=300.0,
            answer_s=30.0,
            config=ForecastConfig(),
        )
    return memory, forecast, at_s


def test_answers_that_become_longer_are_believed_within_minutes():
    memory, before, at_s = _asked(SeriesMemory(), output_tokens=500, windows=200, at_s=0.0)
    assert before.output_tokens == pytest.approx(500)
    _, after, _ = _asked(memory, output_tokens=1500, windows=24, at_s=at_s)
    assert 1200 < after.output_tokens <= 1500
    assert after.context_tokens > before.context_tokens * 1.8


def test_lengths_that_scatter_by_chance_leave_the_long_memory_alone():
    memory, _, at_s = _asked(SeriesMemory(), output_tokens=500, windows=200, at_s=0.0)
    _, after, _ = _asked(memory, output_tokens=520, windows=6, at_s=at_s, per_s=0.5)
    assert after.output_tokens == pytest.approx(500, rel=0.01)


def test_tokens_of_answers_that_are_not_over_lengthen_what_is_expected():
    memory, forecast, _ = _asked(SeriesMemory(), output_tokens=500, windows=60, at_s=0.0)
    ended = memory.recent_tokens[6]
    (same,) = lengthened([forecast], [memory], (ended, ended))
    assert same == forecast
    (longer,) = lengthened([forecast], [memory], (2.0 * ended, ended))
    assert 900 < longer.output_tokens < 1000
    (bounded,) = lengthened([forecast], [memory], (1e3 * ended, ended))
    assert bounded.output_tokens <= 4.0 * forecast.output_tokens


def test_nothing_is_made_of_a_handful_of_answers():
    memory, forecast, _ = _asked(SeriesMemory(), output_tokens=500, windows=1, at_s=0.0, per_s=0.5)
    assert lengthened([forecast], [memory], (1e6, 2500.0)) == [forecast]
