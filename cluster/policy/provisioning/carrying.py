"""What one replica carries of a mix of requests, in the straight lines that an integer program needs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.entities.fleet import ClassForecast
from cluster.entities.performance import ReplicaPerformance
from cluster.performance.capacity import Mix, Objective, Work, operating_point, rate_max, request_s

_GRID = 1.03
"""Rates and lengths are rounded up to powers of this, so that noise does not make every problem a new one."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What one replica of a pool carries of a mix."""

    rate_per_s: float
    fixed_w: float
    slope_w: float
    """Per request/s."""
    work_s: float
    """`request_s` of the mix."""
    seats: float
    """Requests under way at the limit of the objectives, without the margin."""
    answer_s: float
    """Time that a mean answer takes."""


def on_grid(value: float) -> float:
    """The next power of the grid's base from below; 0 stays 0."""
    if value <= 0.0:
        return 0.0
    return float(_GRID ** math.ceil(math.log(value) / math.log(_GRID) - 1e-9))


def mix_of(forecast: ClassForecast) -> Mix:
    """A class's requests as a mix, on the grid."""
    computed = 1.0 - forecast.cached_fraction
    return Mix(
        prompt_tokens=on_grid(forecast.prompt_tokens),
        uncached_tokens=on_grid(forecast.prompt_tokens * computed),
        uncached_tokens_squared=on_grid(forecast.prompt_tokens_squared * computed * computed),
        output_tokens=on_grid(max(1.0, forecast.output_tokens)),
        context_tokens=on_grid(forecast.context_tokens),
    )


def mixture(mixes: Sequence[tuple[float, Mix]]) -> Mix:
    """Several mixes as one, weighted by their rates; of equal weights if all rates are 0.

    Raises:
        ValueError: there is nothing to mix.
    """
    if not mixes:
        raise ValueError("a mixture needs at least one mix")
    total = sum(rate for rate, _ in mixes)
    shares = [(rate / total if total > 0 else 1.0 / len(mixes), mix) for rate, mix in mixes]
    output = sum(share * mix.output_tokens for share, mix in shares)
    attended = sum(share * mix.output_tokens * mix.context_tokens for share, mix in shares)
    return Mix(
        prompt_tokens=on_grid(sum(share * mix.prompt_tokens for share, mix in shares)),
        uncached_tokens=on_grid(sum(share * mix.uncached_tokens for share, mix in shares)),
        uncached_tokens_squared=on_grid(sum(share * mix.uncached_tokens_squared for share, mix in shares)),
        output_tokens=on_grid(output),
        context_tokens=on_grid(attended / output),
    )


def bucket(replicas: int) -> int:
    """The next power of two from below: waits depend on the number of replicas only slowly."""
    return 1 << max(0, replicas.bit_length() - 1)


def carried_by(
    performance: ReplicaPerformance,
    mix: Mix,
    objective: Objective,
    *,
    replicas: int,
    work: Work,
    utilisation_max: float,
) -> Carried:
    """What a replica carries of a mix with the margin kept, and the straight line that its power is near."""
    rate = rate_max(performance, mix, objective, replicas=replicas, work=work)
    if rate <= 0.0:
        # Not even an idle replica is in time: then at least the work has to fit.
        lenient = Objective(ttft_s=math.inf, tpot_s=math.inf, attainment=objective.attainment)
        rate = rate_max(performance, mix, lenient, replicas=replicas, work=work)
    seats = operating_point(performance, mix, rate, replicas=replicas, work=work).batch
    rate = max(1e-9, rate * utilisation_max)
    full = operating_point(performance, mix, rate, replicas=replicas, work=work)
    full_w = full.power_w
    half_w = operating_point(performance, mix, rate / 2.0, replicas=replicas, work=work).power_w
    slope_w = max(0.0, full_w - half_w) / (rate / 2.0)
    return Carried(
        rate_per_s=rate,
        fixed_w=max(performance.power.idle_w, full_w - slope_w * rate),
        slope_w=slope_w,
        work_s=request_s(performance, mix, work),
        seats=max(1.0, min(seats, performance.sequences_max)),
        answer_s=full.batch / rate,
    )
