"""Which fixed fleet serves a trace within its objectives: found in closed form, confirmed by simulation.

The closed form (`cluster.performance.capacity`) says where to look; what is recommended was simulated, on
every seed. Fleets of one pool are tried, and of two pools at several proportions, because that is what finds
the corners of the Pareto front without simulating thousands.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from cluster.config.pools import ReplicaBounds
from cluster.config.root import TidemillConfig
from cluster.entities.pool import Role
from cluster.performance.capacity import Mix, Objective, Work, rate_max
from cluster.performance.profiles import pool_performance
from cluster.simulation.report import Report
from cluster.simulation.run import simulate
from cluster.simulation.scenario import Scenario
from cluster.simulation.traffic.trace import Trace

_PROPORTIONS = (0.25, 0.5, 0.75)
_STEPS_MAX = 12
"""Sizes tried of one fleet before it is given up."""
_GROWTH_MAX = 3
"""A fleet is given up at so many times the size that the closed form expects: its replicas are too slow for
the objectives, however many there are."""
_REPLICAS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetResult:
    """One fleet, simulated on every seed."""

    replicas: Mapping[str, int]
    """By pool; pools without replicas are left out."""
    meets_slo: bool
    """Whether the mean attainment over the seeds is what was asked for."""
    attainment: tuple[float, ...]
    """By seed."""
    p99_ttft_s: tuple[float, ...]
    p95_tpot_s: tuple[float, ...]
    usd_per_h: float
    kwh_per_h: float
    """Mean over the seeds, in kWh per hour of the trace."""
    on_front: bool = False
    """Whether no fleet that meets the SLO is better in both cost and energy."""

    @property
    def instances(self) -> int:
        """Replicas in all."""
        return sum(self.replicas.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What is to be planned."""

    config: TidemillConfig
    model: str
    traces: Sequence[Trace]
    """One for each seed."""
    warm_up_s: float = 0.0


def plan_fleets(
    request: PlanRequest, *, progress: Callable[[str], None] = lambda _: None
) -> list[FleetResult]:
    """Find the smallest fleets of each kind that meet the model's SLO; the cheapest first.

    Args:
        request: model, traffic, pools, objectives.
        progress: told of every fleet that is simulated.

    Raises:
        ValueError: the model does not fit on a pool's GPUs.
    """
    planner = _Planner(request, progress)
    found = [result for support in _supports(request) for result in planner.smallest(support)]
    return _with_front(found)


def evaluate(request: PlanRequest, replicas: Mapping[str, int]) -> FleetResult:
    """Simulate one given fleet on every seed.

    Raises:
        ValueError: a pool is unknown or does not serve the model.
    """
    for name in replicas:
        pool = request.config.pools.get(name)
        if pool is None or pool.model != request.model:
            raise ValueError(f"no pool {name!r} serves {request.model}")
    return _Planner(request, lambda _: None).tried(replicas)


def with_replicas(config: TidemillConfig, replicas: Mapping[str, int]) -> TidemillConfig:
    """The configuration with every pool at a fixed size; 0 where nothing is said."""
    pools = {}
    for name, pool in config.pools.items():
        count = replicas.get(name, 0)
        bounds = ReplicaBounds(min=min(count, _REPLICAS_MAX), max=max(1, count), initial=count)
        pools[name] = pool.model_copy(update={"replicas": bounds})
    return config.model_copy(update={"pools": pools})


def mix_of_trace(trace: Trace) -> Mix:
    """What a trace's requests are like on average, all prompts uncached."""
    prompts = trace.prompt_tokens.astype(np.float64)
    answers = trace.output_tokens.astype(np.float64)
    attended = float((answers * (prompts + answers / 2.0)).sum())
    return Mix(
        prompt_tokens=float(prompts.mean()),
        uncached_tokens=float(prompts.mean()),
        uncached_tokens_squared=float((prompts * prompts).mean()),
        output_tokens=float(answers.mean()),
        context_tokens=attended / float(answers.sum()),
    )


def _supports(request: PlanRequest) -> Iterator[tuple[str, ...]]:
    """Which pools a fleet is made of: one alone, a prefill with a decode pool, two that answer."""
    pools = {name: pool for name, pool in request.config.pools.items() if pool.model == request.model}
    answering = [name for name, pool in pools.items() if pool.role.answers]
    for name in answering:
        yield (name,)
    yield from combinations(answering, 2)
    for prefill in [name for name, pool in pools.items() if pool.role is Role.PREFILL]:
        for decode in [name for name, pool in pools.items() if pool.role is Role.DECODE]:
            yield (prefill, decode)


class _Planner:
    def __init__(self, request: PlanRequest, progress: Callable[[str], None]) -> None:
        self._request = request
        self._progress = progress
        self._config = request.config
        slo = self._config.models[request.model].slo
        self._objective = Objective(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s, attainment=slo.attainment)
        self._mix = mix_of_trace(request.traces[0])
        self._rate_per_s = max(trace.rate_per_s for trace in request.traces)
        self._known: dict[tuple[tuple[str, int], ...], FleetResult] = {}

    def smallest(self, support: tuple[str, ...]) -> Iterator[FleetResult]:
        """The smallest fleets of some pools, one for each proportion."""
        if any(self._guess(pool) == 0 for pool in support):
            return  # a replica of that pool is too late even with nothing else to do
        if len(support) == 1:
            found = self._grown(support[0], {})
            if found is not None:
                yield found
            return
        first, second = support
        alone = self._guess(first)
        for proportion in _PROPORTIONS:
            fixed = max(1, round(alone * proportion))
            found = self._grown(second, {first: fixed})
            if found is not None:
                yield found

    def _guess(self, pool: str) -> int:
        """How many replicas the closed form thinks are needed of a pool alone; 0 if none would do."""
        settings = self._config.pools[pool]
        performance = pool_performance(settings, self._config.models[settings.model])
        work = Work.PROMPTS if settings.role is Role.PREFILL else Work.WHOLE
        replicas = 1
        for _ in range(8):
            each = rate_max(performance, self._mix, self._objective, replicas=replicas, work=work)
            if each <= 0:
                return 0
            wanted = min(_REPLICAS_MAX, max(1, math.ceil(self._rate_per_s / each)))
            if wanted == replicas:
                break
            replicas = wanted
        return replicas

    def _grown(self, pool: str, fixed: Mapping[str, int]) -> FleetResult | None:
        """The smallest number of one pool's replicas, beside fixed others, that meets the SLO."""
        carried = sum(count / max(1, self._guess(name)) for name, count in fixed.items())
        if any(self._config.pools[name].role is Role.PREFILL for name in fixed):
            carried = 0.0  # prompts are taken off, but somebody has to answer
        count = max(1, math.ceil(self._guess(pool) * max(0.05, 1.0 - carried)))
        low, high = 0, _REPLICAS_MAX
        best: FleetResult | None = None
        for _ in range(_STEPS_MAX):
            result = self.tried({**fixed, pool: count})
            if result.meets_slo:
                best, high = result, count
            else:
                low = count
            if high - low <= 1:
                break
            if high < _REPLICAS_MAX:
                # Small steps near the guess first, because it is usually near; then halves.
                count = max(low + 1, high - max(1, (high - low) // 2 if low else high // 8))
            else:
                count = low + max(1, low // 8)
                if count > _GROWTH_MAX * self._guess(pool) + _GROWTH_MAX:
                    break
        return best

    def tried(self, replicas: Mapping[str, int]) -> FleetResult:
        """Simulate a fleet on every seed."""
        key = tuple(sorted((name, count) for name, count in replicas.items() if count))
        if key not in self._known:
            self._progress(" + ".join(f"{count} {name}" for name, count in key))
            config = with_replicas(self._config, dict(key))
            reports = [
                simulate(
                    Scenario(
                        config=config,
                        traces={self._request.model: trace},
                        seed=seed,
                        policy="fixed",
                        warm_up_s=self._request.warm_up_s,
                    )
                )
                for seed, trace in enumerate(self._request.traces)
            ]
            self._known[key] = _result(dict(key), reports, self._objective.attainment)
        return self._known[key]


def _result(replicas: Mapping[str, int], reports: Sequence[Report], attainment: float) -> FleetResult:
    hours = [max(report.duration_s, 1e-9) / 3600.0 for report in reports]
    attained = tuple(report.slo_attainment for report in reports)
    return FleetResult(
        replicas=replicas,
        meets_slo=sum(attained) / len(attained) >= attainment,
        attainment=attained,
        p99_ttft_s=tuple(report.ttft_s["p99"] for report in reports),
        p95_tpot_s=tuple(report.tpot_s["p95"] for report in reports),
        usd_per_h=sum(r.cost_usd / h for r, h in zip(reports, hours, strict=True)) / len(reports),
        kwh_per_h=sum(r.energy_j / 3.6e6 / h for r, h in zip(reports, hours, strict=True)) / len(reports),
    )


def _with_front(found: Sequence[FleetResult]) -> list[FleetResult]:
    """Once each, the cheapest first, those that no other beats in both cost and energy marked."""
    unique = {tuple(sorted(result.replicas.items())): result for result in found}
    results = sorted(unique.values(), key=lambda result: (result.usd_per_h, result.kwh_per_h))
    marked = []
    for result in results:
        beaten = any(
            (other.usd_per_h <= result.usd_per_h and other.kwh_per_h < result.kwh_per_h)
            or (other.usd_per_h < result.usd_per_h and other.kwh_per_h <= result.kwh_per_h)
            for other in results
        )
        marked.append(replace(result, on_front=not beaten))
    return marked
