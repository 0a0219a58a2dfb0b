"""What demand to expect when a replica that is asked for now would be ready, and how far it may be off.

Two experts speak for every workload class: a straight line through the last minutes, whose slope counts only
as far as it is significant, and the same time on earlier days. The one that erred less over the horizon so
far is believed. A jump that noise does not explain restarts the line, so that a flash crowd is followed
within seconds. The band above the expected demand covers what the expert has been wrong by.

What is forecast is what clients ask; how much of it the semantic cache leaves for engines is seen of late. A
cache that was emptied, or that has become more careful, is planned for at once, not as a rise of demand.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from cluster.config.provisioning import ForecastConfig
from cluster.entities.fleet import ClassDemand, ClassForecast, SeriesMemory

_RECENT_SHARE = (0.05, 0.5)
"""Half-life of "recent", as a part of the line's: at least and at most."""
_ANSWERS = 4.0
"""Half-life of "recent" in mean answers: long answers, most of the work, take longer than the mean."""
_JUMP_SIGMAS = 4.0
_WINDOWS_BEFORE_JUMP = 4.0
_ERROR_HALF_LIFE = 40.0
"""In judged forecasts."""
_PENDING_MAX = 8
_TOKENS_HALF_LIVES = 4.0
"""Lengths of prompts and answers change more slowly than rates."""
_LENGTH_SPREAD = 1.5
"""Standard deviation of lengths by their mean, as in public traces (ServeGen: 1.3 to 2)."""
_LENGTH_SIGMAS = 2.0
_ENDED_MIN = 8.0
"""Answers that have to have ended before their number says anything."""
_LENGTHENING_MAX = 4.0
_ERROR_START = 0.04
"""Square of a relative error of 20 %: believed until forecasts have been judged."""
_SEASON_WEIGHT = 0.3
"""Of today against all earlier days."""
_DAY_S = 86_400.0
_OUTPUT_TOKENS_START = 256.0


def forecast_class(
    memory: SeriesMemory,
    demand: ClassDemand,
    *,
    started_at_s: float,
    ended_at_s: float,
    horizon_s: float,
    silence_s: float,
    answer_s: float,
    config: ForecastConfig,
) -> tuple[SeriesMemory, ClassForecast]:
    """Take in one window and look ahead.

    Args:
        memory: of this class.
        demand: of this class in the window; zeros where there was none.
        started_at_s: start of the window, Unix time.
        ended_at_s: its end; nothing is learnt from a window without length.
        horizon_s: how far ahead to look.
        silence_s: after so long without an arrival none is expected.
        answer_s: how long answers take. Demand that goes up and down faster than that is averaged by the
            fleet itself, and no jump to be followed.
        config: half-lives, width of the band, parts of a day.

    Returns:
        The new memory and the forecast for the next `horizon_s`.
    """
    span_s = ended_at_s - started_at_s
    if span_s > 0:
        memory = _learnt(memory, demand, span_s, ended_at_s, answer_s=answer_s, config=config)
    line = _line(memory, horizon_s)
    season = _season_ahead(memory, ended_at_s, horizon_s)
    if span_s > 0:
        memory = _noted(memory, ended_at_s, horizon_s, line, season)
    experts = ((line, 0), (season, 1)) if season >= 0 else ((line, 0),)
    errors = memory.errors or (_ERROR_START, _ERROR_START)
    error2, expected = min((errors[place], said) for said, place in experts)
    silent = ended_at_s - memory.arrived_at_s > silence_s
    expected = 0.0 if silent else expected
    # Over the horizon so many arrivals are expected; their number scatters.
    deviation = math.sqrt(expected / max(horizon_s, 1.0) + error2 * expected * expected)
    # What comes right now has to be served whatever the line through the last minutes says.
    now = 0.0 if silent or not memory.recent else memory.recent[3] / memory.recent[0]
    missed = memory.missed[0] / memory.missed[1] if memory.missed and memory.missed[1] > 0 else 1.0
    high = missed * max(now, expected + config.band_sigmas * deviation)
    return memory, _forecast(memory, demand, missed * expected, high)


def _learnt(
    memory: SeriesMemory,
    demand: ClassDemand,
    span_s: float,
    ended_at_s: float,
    *,
    answer_s: float,
    config: ForecastConfig,
) -> SeriesMemory:
    asked = demand.arrivals + demand.cache_hits
    rate = asked / span_s
    recent_s = recent_half_life_s(answer_s, config)
    keep = 0.5 ** (span_s / recent_s)
    missed, offered = memory.missed or (0.0, 0.0)
    recent = _decayed_recent(memory.recent, rate, span_s, recent_s)
    moments = _decayed_moments(memory.moments, rate, span_s, config.half_life_s)
    if _jumped(moments, recent, span_s):
        moments = _restarted(moments, recent)
    return replace(
        _judged(memory, recent[3] / recent[0], ended_at_s),
        moments=moments,
        recent=recent,
        missed=(missed * keep + demand.arrivals, offered * keep + asked),
        arrived_at_s=ended_at_s if demand.arrivals else memory.arrived_at_s,
        tokens=_decayed_tokens(memory.tokens, demand, span_s, config.half_life_s * _TOKENS_HALF_LIVES),
        recent_tokens=_decayed_tokens(memory.recent_tokens, demand, span_s, recent_s),
        season=_season(memory.season, rate, span_s, ended_at_s, config.season_bins),
    )


def _decayed_recent(
    recent: tuple[float, ...], rate: float, span_s: float, half_life_s: float
) -> tuple[float, ...]:
    weight, squares, times, total = recent or (0.0,) * 4
    keep = 0.5 ** (span_s / half_life_s)
    return (
        weight * keep + span_s,
        squares * keep * keep + span_s * span_s,
        keep * (times - span_s * weight) - span_s * span_s / 2.0,
        total * keep + span_s * rate,
    )


def _decayed_moments(
    moments: tuple[float, ...], rate: float, span_s: float, half_life_s: float
) -> tuple[float, ...]:
    """Move the origin to the end of the new window, let old windows fade, add the new one at its middle."""
    w, ww, wt, wtt, wy, wty, wyy = moments or (0.0,) * 7
    keep = 0.5 ** (span_s / half_life_s)
    wtt = keep * (wtt - 2.0 * span_s * wt + span_s * span_s * w)
    wt = keep * (wt - span_s * w)
    wty = keep * (wty - span_s * wy)
    middle = -span_s / 2.0
    return (
        w * keep + span_s,
        ww * keep * keep + span_s * span_s,
        wt + span_s * middle,
        wtt + span_s * middle * middle,
        wy * keep + span_s * rate,
        wty + span_s * middle * rate,
        wyy * keep + span_s * rate * rate,
    )


def _decayed_tokens(
    tokens: tuple[float, ...], demand: ClassDemand, span_s: float, half_life_s: float
) -> tuple[float, ...]:
    keep = 0.5 ** (span_s / half_life_s)
    sums = zip(tokens or (0.0,) * 8, demand.token_sums, strict=True)
    return tuple(old * keep + new for old, new in sums)


def _fit(moments: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Mean of t, mean of y, slope as far as it is significant, variance of one window's y around the line."""
    w, ww, wt, wtt, wy, wty, wyy = moments
    mean_t, mean_y = wt / w, wy / w
    spread_t = max(0.0, wtt / w - mean_t * mean_t)
    spread_y = max(0.0, wyy / w - mean_y * mean_y)
    if spread_t <= 0.0:
        return mean_t, mean_y, 0.0, spread_y
    slope = (wty / w - mean_t * mean_y) / spread_t
    variance = max(0.0, spread_y - slope * slope * spread_t)
    windows = w * w / ww
    # James and Stein's positive part: a slope within its standard error counts nothing.
    error2 = variance / (windows * spread_t)
    slope2 = slope * slope  # 0 for a slope that days of silence have left of one
    certain = max(0.0, 1.0 - 4.0 * error2 / slope2) if slope2 else 0.0
    return mean_t, mean_y, slope * certain, variance


def _jumped(moments: tuple[float, ...], recent: tuple[float, ...], span_s: float) -> bool:
    """Whether the last minute lies where neither the line nor noise would put it."""
    if moments[0] * moments[0] / moments[1] < _WINDOWS_BEFORE_JUMP:
        return False
    mean_t, mean_y, slope, variance = _fit(moments)
    weight, squares, times, total = recent
    expected = max(0.0, mean_y + slope * (times / weight - mean_t))
    # Arrivals scatter at least as a Poisson process does, however quiet the line was.
    variance = max(variance, expected / span_s, 1.0 / (span_s * span_s))
    return abs(total / weight - expected) > _JUMP_SIGMAS * math.sqrt(variance * squares / (weight * weight))


def _restarted(moments: tuple[float, ...], recent: tuple[float, ...]) -> tuple[float, ...]:
    """A line that knows only the last minute, and how much windows scatter."""
    weight, squares, _, total = recent
    mean = total / weight
    *_, variance = _fit(moments)
    return (weight, squares, 0.0, 0.0, total, 0.0, weight * (mean * mean + variance))


def _line(memory: SeriesMemory, horizon_s: float) -> float:
    if not memory.moments:
        return 0.0
    mean_t, mean_y, slope, _ = _fit(memory.moments)
    now = mean_y - slope * mean_t
    if slope > 0:
        return max(0.0, now, now + slope * horizon_s)
    # A line that falls is not carried on: it would soon be below what still comes.
    return max(0.0, now, memory.recent[3] / memory.recent[0])


def _season(
    season: tuple[float, ...], rate: float, span_s: float, ended_at_s: float, bins: int
) -> tuple[float, ...]:
    if bins <= 1:
        return ()
    known = list(season) if len(season) == bins else [-1.0] * bins
    place = _bin(ended_at_s - span_s / 2.0, bins)
    if known[place] < 0:
        known[place] = rate
    else:
        # A bin holds several windows of a day; together they weigh _SEASON_WEIGHT against earlier days.
        share = min(1.0, span_s * bins / _DAY_S) * _SEASON_WEIGHT
        known[place] += share * (rate - known[place])
    return tuple(known)


def _bin(at_s: float, bins: int) -> int:
    return int((at_s % _DAY_S) / _DAY_S * bins) % bins


def _season_ahead(memory: SeriesMemory, now_s: float, horizon_s: float) -> float:
    """Now's recent demand times what the season says it will be multiplied by; negative if it cannot say."""
    season = memory.season
    if not season or not memory.recent:
        return -1.0
    bins = len(season)
    now, then = season[_bin(now_s, bins)], season[_bin(now_s + horizon_s, bins)]
    after = season[_bin(now_s + horizon_s + _DAY_S / bins, bins)]
    if now <= 0 or then < 0 or after < 0:
        return -1.0
    recent = memory.recent[3] / memory.recent[0]
    return recent * min(4.0, max(1.0, then / now, after / now))


def _noted(memory: SeriesMemory, now_s: float, horizon_s: float, line: float, season: float) -> SeriesMemory:
    """Remember the forecast for its day of judgement, a few times per horizon."""
    pending = memory.pending
    due_s = now_s + horizon_s
    if pending and due_s - pending[-1][0] < horizon_s * 2.0 / _PENDING_MAX:
        return memory
    return replace(memory, pending=(*pending, (due_s, line, season))[-_PENDING_MAX:])


def _judged(memory: SeriesMemory, rate: float, now_s: float) -> SeriesMemory:
    if not memory.pending or memory.pending[0][0] > now_s:
        return memory
    errors = list(memory.errors or (_ERROR_START, _ERROR_START))
    pending = list(memory.pending)
    keep = 0.5 ** (1.0 / _ERROR_HALF_LIFE)
    while pending and pending[0][0] <= now_s:
        _, *said = pending.pop(0)
        for place, forecast in enumerate(said):
            if forecast < 0:
                continue
            # Only demand that was higher than expected hurts, as a share of what was expected.
            error = min(2.0, max(0.0, rate - forecast) / max(forecast, rate / 3.0, 1e-9))
            errors[place] = keep * errors[place] + (1.0 - keep) * error * error
    return replace(memory, errors=tuple(errors), pending=tuple(pending))


def _believed_tokens(memory: SeriesMemory) -> tuple[float, ...]:
    """Sums over requests whose lengths are those to expect: long remembered, unless the last ones differ.

    One client that begins to ask for answers twice as long doubles the work at an unchanged rate. The last
    requests' sums come in as far as their mean lengths differ from the remembered ones beyond chance, in the
    form of James and Stein's positive part.
    """
    old, new = memory.tokens or (0.0,) * 8, memory.recent_tokens or (0.0,) * 8
    prompts = _certainty(old[1], old[0], new[1], new[0])
    answers = _certainty(old[6], old[3], new[6], new[3])
    shares = (prompts,) * 3 + (answers,) * 5
    counts = (old[0] / new[0] if new[0] else 0.0,) * 3 + (old[3] / new[3] if new[3] else 0.0,) * 5
    # Brought to the remembered numbers of requests first, so that it is the means that are mixed.
    return tuple(
        remembered + share * (recent * count - remembered)
        for remembered, recent, share, count in zip(old, new, shares, counts, strict=True)
    )


def recent_half_life_s(answer_s: float, config: ForecastConfig) -> float:
    """Half-life of what counts as recent, where answers take so long."""
    least, most = (share * config.half_life_s for share in _RECENT_SHARE)
    return min(most, max(least, _ANSWERS * answer_s))


def lengthened(
    forecasts: Sequence[ClassForecast],
    memories: Sequence[SeriesMemory],
    made: tuple[float, float] | None,
) -> list[ClassForecast]:
    """A model's forecasts with answers as long as those under way let expect.

    Answers that have ended are the short ones first: when longer ones begin to come, their lengths say so
    only an answer's time later. Tokens made by answers that ended: the maximum-likelihood estimate of the
    mean of exponential lengths of which some are not over yet (censored).

    Args:
        forecasts: of one model.
        memories: of the same classes.
        made: output tokens that engines made and those of answers that ended, of late.
    """
    ended = sum(memory.recent_tokens[3] for memory in memories if memory.recent_tokens)
    if made is None or made[1] <= 0 or made[0] <= made[1] or ended < _ENDED_MIN:
        return list(forecasts)
    factor = made[0] / made[1]
    certain = _certainty(1.0, 1.0, factor * ended, ended)
    factor = min(_LENGTHENING_MAX, 1.0 + certain * (factor - 1.0))
    return [
        replace(
            found,
            output_tokens=found.output_tokens * factor,
            context_tokens=found.context_tokens + found.output_tokens * (factor - 1.0) / 2.0,
        )
        for found in forecasts
    ]


def _certainty(old_tokens: float, old_count: float, new_tokens: float, new_count: float) -> float:
    """How far a change of the mean length is beyond chance, 0..1."""
    if old_count <= 0 or new_count <= 0 or old_tokens <= 0:
        return 0.0
    change = (new_tokens / new_count) / (old_tokens / old_count) - 1.0
    error = _LENGTH_SIGMAS * _LENGTH_SPREAD / math.sqrt(new_count)
    ratio = error / change if change else math.inf
    return max(0.0, 1.0 - ratio * ratio)  # not `**`, which raises where a product is infinite


def _forecast(memory: SeriesMemory, demand: ClassDemand, expected: float, high: float) -> ClassForecast:
    arrivals, prompt, squares, completions, completed, cached, output, attended = _believed_tokens(memory)
    mean = prompt / arrivals if arrivals > 0 else 0.0
    answer = output / completions if completions > 0 else _OUTPUT_TOKENS_START
    return ClassForecast(
        model=demand.model,
        workload_class=demand.workload_class,
        arrivals_per_s=high,
        arrivals_mean_per_s=expected,
        prompt_tokens=mean,
        prompt_tokens_squared=max(mean * mean, squares / arrivals if arrivals > 0 else 0.0),
        output_tokens=answer,
        context_tokens=attended / output if output > 0 else mean + answer / 2.0,
        cached_fraction=min(1.0, cached / completed) if completed > 0 else 0.0,
    )
