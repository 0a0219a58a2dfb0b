"""Metrics that are read off the router's state when somebody scrapes, rather than counted along the way."""

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from cluster.config import TidemillConfig
from cluster.metrics import fleet, objectives, requests
from deployments.instruments import family
from deployments.messages import PublishedPlan
from deployments.router.fleet.demand import RouterDemand
from deployments.router.fleet.view import FleetPicture
from deployments.router.metrics.token_gaps import TokenGaps

READ_WHEN_SCRAPED = frozenset({requests.ITL, fleet.PLAN_AGE, *objectives.METRICS})
"""What `StateMetrics` exports; the others are counted by `RouterMetrics`."""


class StateMetrics(Collector):
    """Objectives, demand, forecast, the plan's reasons, gaps between tokens, and how old all this is."""

    def __init__(
        self,
        config: TidemillConfig,
        *,
        demand: RouterDemand,
        picture: FleetPicture,
        now_s: Callable[[], float],
        wall_s: Callable[[], float],
    ) -> None:
        """Read nothing yet.

        Args:
            config: for the objectives.
            demand: what arrived and what came of it.
            picture: holds the provisioner's last plan.
            now_s: the router's clock.
            wall_s: Unix time, the provisioner's clock.
        """
        self._config = config
        self._demand = demand
        self._picture = picture
        self._now_s = now_s
        self._wall_s = wall_s
        self._heard_at_s: float | None = None
        self._gaps: dict[str, TokenGaps] = {}

    def heard(self) -> None:
        """The directory has told of the fleet."""
        self._heard_at_s = self._now_s()

    def gaps(self, path: str, gaps: TokenGaps) -> None:
        """Take in the gaps of an answer."""
        self._gaps.setdefault(path, TokenGaps()).add(gaps)

    def collect(self) -> Iterator[Family]:
        """Everything as it is now."""
        yield self._itl()
        yield from self._objectives()
        if self._heard_at_s is not None:
            age_s = self._now_s() - self._heard_at_s
            yield family(objectives.FLEET_VIEW_AGE, {(): age_s})
        plan = self._picture.plan
        if plan is not None:
            yield from self._plan(plan)

    def _itl(self) -> HistogramMetricFamily:
        found = HistogramMetricFamily(requests.ITL.name, requests.ITL.help, labels=requests.ITL.labels)
        for path, gaps in self._gaps.items():
            found.add_metric([path], buckets=gaps.buckets(), sum_value=gaps.sum_s)
        return found

    def _objectives(self) -> Iterator[Family]:
        yield family(objectives.SLO_REQUESTS, self._demand.results)
        targets = {(name,): model.slo.attainment for name, model in self._config.models.items()}
        yield family(objectives.SLO_TARGET, targets)
        classes = self._demand.totals().classes
        arrivals = {(found.model, found.workload_class): found.arrivals for found in classes}
        yield family(objectives.DEMAND, Counter(arrivals))

    def _plan(self, plan: PublishedPlan) -> Iterator[Family]:
        age_s = max(0.0, self._wall_s() - plan.decided_at_s)
        yield family(fleet.PLAN_AGE, {(): age_s})
        forecast = {}
        for found in plan.forecast:
            key = (found.model, found.workload_class)
            forecast[*key, "mean"] = found.arrivals_mean_per_s
            forecast[*key, "upper"] = found.arrivals_per_s
        yield family(objectives.FORECAST, forecast)
        yield family(objectives.PLAN_REASONS, {(reason.value,): 1.0 for reason in plan.reasons})
        reasons = {
            (target.pool, reason.value): 1.0 for target in plan.plan.pools for reason in target.reasons
        }
        yield family(objectives.POOL_PLAN_REASONS, reasons)
        requested = {(pool.pool,): float(pool.replicas_wanted) for pool in plan.pools}
        yield family(objectives.REPLICAS_REQUESTED, requested)
        reported = {
            (pool.pool,): max(0.0, plan.decided_at_s - pool.reported_at_s)
            for pool in plan.pools
            if pool.reported_at_s is not None
        }
        yield family(objectives.REPORT_AGE, reported)
