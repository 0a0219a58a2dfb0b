"""From a snapshot and a forecast to the integer program, and from its solution back to the pools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.config.provisioning import ObjectiveConfig
from cluster.config.root import TidemillConfig
from cluster.entities.fleet import ClassForecast, PoolObservation
from cluster.entities.pool import Role
from cluster.performance.capacity import Mix, Objective, Work, operating_point, rate_max, request_s
from cluster.performance.transfer import kv_transfer_s
from cluster.policy.provisioning.carrying import Carried, bucket, carried_by, mix_of, mixture, on_grid
from cluster.policy.provisioning.commitment import Flow, Holding, PoolColumn, Program
from cluster.policy.workload_class import class_lower_tokens

_PENALTY = 50.0
"""An unserved request costs this many times what the dearest way to serve it does."""
_SEATS_NOTED = 0.5
"""Requests under way count once they take this share of the seats: before, the forecast knows better."""
_STAY_S = 600.0
"""Over this time a start and the drain that follows have to pay for themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How far a pool may go now."""

    replicas_min: int
    replicas_max: int
    """Of the configuration, the hardware, and what was found unplaceable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedProgram:
    """A program and what its columns mean."""

    program: Program
    pools: tuple[PoolObservation, ...]
    prompt_tokens_max: Mapping[str, int | None]
    """By pool: longest prompts that it can answer in time while another pool takes longer ones."""


def program_of(
    config: TidemillConfig,
    pools: Sequence[PoolObservation],
    forecasts: Sequence[ClassForecast],
    *,
    limits: Mapping[str, PoolLimits],
    backlog: Mapping[str, float],
    under_way: Mapping[str, float],
    replicas: Mapping[str, int],
    power_cap_w: float | None,
) -> PlannedProgram:
    """Put the program together.

    Args:
        config: objectives, prices, margins.
        pools: pools to plan, all pools of each of their models.
        forecasts: demand by class; classes of one model in rising prompt length.
        limits: by pool.
        backlog: by model, requests that wait for a replica.
        under_way: by model, requests that are to have a seat on a replica.
        replicas: by pool, how many are likely; prompts wait less where there are more.
        power_cap_w: for these pools together; None without one.
    """
    builder = _Builder(config, tuple(pools), limits, replicas)
    for model in sorted({pool.model for pool in pools}):
        classes = [found for found in forecasts if found.model == model]
        builder.add(model, classes, backlog.get(model, 0.0), under_way.get(model, 0.0))
    return builder.finished(power_cap_w)


def energy_usd_per_wh(objective: ObjectiveConfig) -> float:
    """What a watt-hour costs, its carbon included."""
    return (
        objective.energy_weight
        * (objective.usd_per_kwh + objective.co2_g_per_kwh / 1000.0 * objective.usd_per_co2_kg)
        / 1000.0
    )


class _Builder:
    def __init__(
        self,
        config: TidemillConfig,
        pools: tuple[PoolObservation, ...],
        limits: Mapping[str, PoolLimits],
        replicas: Mapping[str, int],
    ) -> None:
        self._config = config
        self._pools = pools
        self._limits = limits
        self._replicas = replicas
        self._usd_per_wh = energy_usd_per_wh(config.provisioning.objective)
        self._fixed_w = {pool.pool: pool.performance.power.idle_w for pool in pools}
        self._demands: list[float] = []
        self._penalties: list[float] = []
        self._flows: list[Flow] = []
        self._holdings: list[Holding] = []
        self._answer_s: dict[int, float] = {}
        self._prompt_tokens_max: dict[str, int | None] = {}

    def add(self, model: str, forecasts: Sequence[ClassForecast], waiting: float, under_way: float) -> None:
        """Add a model's demands and the ways to serve them."""
        settings = self._config.provisioning
        slo = self._config.models[model].slo
        objective = Objective(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s, attainment=slo.attainment)
        total = sum(found.arrivals_per_s for found in forecasts)
        drained_per_s = waiting / settings.backlog_drain_s
        demands = [
            (
                on_grid(
                    found.arrivals_per_s
                    + drained_per_s * (found.arrivals_per_s / total if total else 1.0 / len(forecasts))
                ),
                mix_of(found),
            )
            for found in forecasts
        ]
        answering = [
            place
            for place, pool in enumerate(self._pools)
            if pool.model == model and pool.role is not Role.PREFILL
        ]
        prompting = [
            place
            for place, pool in enumerate(self._pools)
            if pool.model == model and pool.role is Role.PREFILL
        ]
        allowed = self._allowed(answering, [mix for _, mix in demands], objective, forecasts)
        whole = {
            place: self._carried(place, [demands[found] for found in allowed[place]], objective, Work.WHOLE)
            for place in answering
            if allowed[place]
        }
        self._hold(whole, under_way)
        split = self._split(answering, prompting, demands, objective)
        for found, demand in enumerate(demands):
            self._add_flows(found, demand, allowed, whole, split)

    def _hold(self, whole: Mapping[int, Carried], requests: float) -> None:
        """What is under way has to have a seat, so that a fleet isn't shrunk under its own load."""
        present = sum(self._pools[place].replicas_wanted * carried.seats for place, carried in whole.items())
        if not whole or requests <= present * _SEATS_NOTED:
            return
        dearest = max(self._replica_usd(place) / carried.seats for place, carried in whole.items())
        self._holdings.append(
            Holding(
                requests=float(requests),
                seats=tuple((place, carried.seats) for place, carried in whole.items()),
                penalty_usd_per_h=_PENALTY * dearest,
            )
        )

    def _allowed(
        self,
        answering: Sequence[int],
        mixes: Sequence[Mix],
        objective: Objective,
        forecasts: Sequence[ClassForecast],
    ) -> dict[int, tuple[int, ...]]:
        """By pool, which classes it can answer in time; classes nobody can go where it is fastest."""
        reach = {place: self._reach(place, mixes, objective) for place in answering}
        longest = max(reach.values(), default=0)
        if answering and longest < len(mixes):
            open_pools = [p for p in answering if self._limits[self._pools[p].pool].replicas_max > 0]
            best = min(open_pools or answering, key=lambda p: self._alone_s(p, mixes[-1]))
            reach[best] = len(mixes)
        for place in answering:
            name = self._pools[place].pool
            self._prompt_tokens_max[name] = (
                class_lower_tokens(forecasts[reach[place]].workload_class) - 1
                if reach[place] < len(mixes)
                else None
            )
        return {place: tuple(range(count)) for place, count in reach.items()}

    def _reach(self, place: int, mixes: Sequence[Mix], objective: Objective) -> int:
        """How many classes, from the shortest prompts on, an idle replica answers in time."""
        performance = self._pools[place].performance
        for count, mix in enumerate(mixes):
            if rate_max(performance, mix, objective) <= 0.0:
                return count
        return len(mixes)

    def _alone_s(self, place: int, mix: Mix) -> float:
        return operating_point(self._pools[place].performance, mix, 0.0).ttft_s

    def _carried(
        self,
        place: int,
        mixes: Sequence[tuple[float, Mix]],
        objective: Objective,
        work: Work,
    ) -> Carried:
        pool = self._pools[place]
        mix = mixture(mixes)
        carried = carried_by(
            pool.performance,
            mix,
            objective,
            replicas=bucket(self._replicas.get(pool.pool, 1)),
            work=work,
            utilisation_max=self._config.provisioning.utilisation_max,
        )
        self._fixed_w[pool.pool] = carried.fixed_w
        if work is not Work.PROMPTS:
            self._answer_s[place] = carried.answer_s
        return carried

    def _split(
        self,
        answering: Sequence[int],
        prompting: Sequence[int],
        demands: Sequence[tuple[float, Mix]],
        objective: Objective,
    ) -> tuple[dict[int, Carried], dict[int, Carried], set[int]]:
        """What prefill and decode pools carry of the classes that the router would split."""
        rules = self._config.routing.disaggregation
        long = {
            place
            for place, (_, mix) in enumerate(demands)
            if mix.uncached_tokens >= rules.uncached_tokens_min
        }
        decoding = [place for place in answering if self._pools[place].role is Role.DECODE]
        if not (rules.enabled and long and prompting and decoding):
            return {}, {}, set()
        mixes = [demands[place] for place in sorted(long)]
        prefill: dict[int, Carried] = {}
        for place in prompting:
            performance = self._pools[place].performance
            handed_s = kv_transfer_s(performance, round(mixture(mixes).prompt_tokens))
            left = Objective(
                ttft_s=max(1e-3, objective.ttft_s - handed_s),
                tpot_s=objective.tpot_s,
                attainment=objective.attainment,
            )
            prefill[place] = self._carried(place, mixes, left, Work.PROMPTS)
        decode = {place: self._carried_answers(place, mixes, objective) for place in decoding}
        return prefill, decode, long

    def _carried_answers(
        self, place: int, mixes: Sequence[tuple[float, Mix]], objective: Objective
    ) -> Carried:
        fixed_w = self._fixed_w[self._pools[place].pool]
        carried = self._carried(place, mixes, objective, Work.ANSWERS)
        # A pool has one fixed power: that of whole requests, which every decode pool can serve too.
        self._fixed_w[self._pools[place].pool] = fixed_w
        return carried

    def _add_flows(
        self,
        found: int,
        demand: tuple[float, Mix],
        allowed: Mapping[int, tuple[int, ...]],
        whole: Mapping[int, Carried],
        split: tuple[dict[int, Carried], dict[int, Carried], set[int]],
    ) -> None:
        rate, mix = demand
        place_of = len(self._demands)
        flows = [
            self._flow(place_of, mix, ((place, carried, Work.WHOLE),))
            for place, carried in whole.items()
            if found in allowed[place]
        ]
        prefill, decode, long = split
        if found in long:
            flows += [
                self._flow(place_of, mix, ((first, prompts, Work.PROMPTS), (second, answers, Work.ANSWERS)))
                for first, prompts in prefill.items()
                for second, answers in decode.items()
            ]
        dearest = max((self._full_cost(flow) for flow in flows), default=1.0)
        self._demands.append(rate)
        self._penalties.append(_PENALTY * max(dearest, 1e-6))
        self._flows += flows

    def _flow(self, demand: int, mix: Mix, parts: tuple[tuple[int, Carried, Work], ...]) -> Flow:
        uses, watts = [], 0.0
        for place, carried, work in parts:
            each_s = request_s(self._pools[place].performance, mix, work)
            # A class takes of a replica what its work is of the mean request's.
            weight = each_s / carried.work_s if carried.work_s > 0 else 1.0
            uses.append((place, weight / carried.rate_per_s))
            watts += weight * carried.slope_w
        return Flow(demand=demand, uses=tuple(uses), usd_per_h=watts * self._usd_per_wh, watts=watts)

    def _full_cost(self, flow: Flow) -> float:
        replicas = sum(count * self._replica_usd(place) for place, count in flow.uses)
        return flow.usd_per_h + replicas

    def _replica_usd(self, place: int) -> float:
        pool = self._pools[place]
        price = pool.performance.price_usd_per_h * self._config.provisioning.objective.price_weight
        # Something, so that of two free plans the smaller one is chosen.
        return self._fixed_w[pool.pool] * self._usd_per_wh + price + 1e-6

    def finished(self, power_cap_w: float | None) -> PlannedProgram:
        """The program."""
        tolerance = self._config.provisioning.damping.tolerance
        columns = []
        for place, pool in enumerate(self._pools):
            limits = self._limits[pool.pool]
            usd_per_h = self._replica_usd(place)
            # A replica that comes has to go again, and while its last answers end it serves nobody else.
            drain_j = self._answer_s.get(place, 0.0) * self._fixed_w[pool.pool]
            start_usd = (pool.performance.start_j + drain_j) / _STAY_S * self._usd_per_wh
            columns.append(
                PoolColumn(
                    pool=pool.pool,
                    replicas_min=limits.replicas_min,
                    replicas_max=limits.replicas_max,
                    present=pool.replicas_wanted,
                    usd_per_h=usd_per_h,
                    start_usd_per_h=max(start_usd, tolerance * usd_per_h),
                    watts=self._fixed_w[pool.pool],
                )
            )
        program = Program(
            pools=tuple(columns),
            demands_per_s=tuple(self._demands),
            penalties_usd_per_h=tuple(self._penalties),
            flows=tuple(self._flows),
            holdings=tuple(self._holdings),
            power_cap_w=power_cap_w,
        )
        return PlannedProgram(
            program=program, pools=self._pools, prompt_tokens_max=dict(self._prompt_tokens_max)
        )
