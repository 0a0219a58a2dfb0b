"""The router's Prometheus metrics, made from the catalogue."""

from collections import Counter as Count
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from cluster.entities.decision import DecisionRecord
from cluster.entities.energy import EnergySource
from cluster.entities.model_routing import FeedbackSource, Goal
from cluster.entities.pool import ReplicaReport
from cluster.entities.reasons import Reason
from cluster.metrics import (
    Metric,
    adapters_fleet,
    fleet,
    guardrails,
    model_routing,
    observability,
    requests,
    tenants,
)
from deployments.instruments import instrument
from deployments.messages import PublishedPlan
from deployments.model_learning.state import FeedbackResult
from deployments.router.fleet.energy import Payer
from deployments.router.metrics.exposition import READ_WHEN_SCRAPED

_FALLBACKS = frozenset({Reason.PREFILL_FAILED, Reason.PREFILL_TIMED_OUT, Reason.TICKET_MISSING})
_OURS = (
    *requests.METRICS,
    *fleet.METRICS,
    *model_routing.METRICS,
    *adapters_fleet.METRICS,
    *observability.METRICS,
    *tenants.METRICS,
    *guardrails.METRICS,
)


class RouterMetrics:
    """Counts what one router replica does."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {
            metric.name: instrument(metric, self._registry)
            for metric in _OURS
            if metric not in READ_WHEN_SCRAPED
        }
        self._series: dict[tuple[str, ...], Any] = {}
        self._charged_j: defaultdict[tuple[str, EnergySource], float] = defaultdict(float)
        self._output_tokens: defaultdict[str, int] = defaultdict(int)

    def _get(self, metric: Metric) -> Any:
        return self._metrics[metric.name]

    def series(self, metric: Metric, *labels: str) -> Any:
        """One series of a metric that is never cleared, remembered: several are counted for every request."""
        key = (metric.name, *labels)
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = self._get(metric).labels(*labels)
        return found

    def include(self, collector: Collector) -> None:
        """Show what a collector reads off the router's state."""
        self._registry.register(collector)

    def get(self, metric: Metric) -> Any:
        """The object that counts, for those who count what is theirs."""
        return self._get(metric)

    def request(self, record: DecisionRecord) -> None:
        """Count a finished request."""
        path = record.path.value if record.path else "none"
        self.series(
            requests.REQUESTS, record.signals.surface.value, path, str(record.status), record.cache
        ).inc()
        timeline = record.timeline
        for metric, value in (
            (requests.TTFT, timeline.ttft_s),
            (requests.TPOT, timeline.tpot_s),
            (requests.E2E, timeline.e2e_s),
        ):
            # A whole answer has no gaps between tokens that anybody saw.
            unseen = metric is requests.TPOT and not record.signals.stream
            if value is not None and record.status == 200 and not unseen:
                self.series(metric, path).observe(value)
        if timeline.dispatched_at_s is not None:
            self._get(requests.ROUTER_OVERHEAD).observe(timeline.dispatched_at_s - timeline.arrived_at_s)
        self.series(requests.PROMPT_TOKENS, record.signals.model).inc(record.prompt_tokens or 0)
        self.series(requests.OUTPUT_TOKENS, record.signals.model).inc(record.output_tokens)
        if record.replica is not None and record.replica.choice.replica_id is not None:
            self._count_pool_tokens(record)
        for reason in record.reasons:
            if reason in _FALLBACKS:
                self._get(requests.FALLBACKS).labels(reason.value).inc()
        if Reason.CACHE_UNAVAILABLE in record.reasons:
            self._get(requests.LOOKUPS_SKIPPED).inc()
        if Reason.TEXT_SIGNALS_MISSING in record.reasons:
            self._get(model_routing.TEXT_SIGNALS_MISSING).inc()
        for step in record.cascade:
            verdict = "accepted" if step.accepted else "escalated"
            self._get(model_routing.CASCADE_ANSWERS).labels(step.model, verdict).inc()

    def _count_pool_tokens(self, record: DecisionRecord) -> None:
        decision = record.replica
        if decision is None:
            return
        chosen = decision.choice.replica_id
        pool = next((view.pool for view in decision.candidates if view.replica_id == chosen), None)
        if pool is None:
            return
        self._output_tokens[pool] += record.output_tokens
        for source in EnergySource:
            if (pool, source) in self._charged_j and self._output_tokens[pool]:
                each_j = self._charged_j[pool, source] / self._output_tokens[pool]
                self.series(fleet.ENERGY_PER_OUTPUT_TOKEN, pool, source.value).set(each_j)

    def turned_away(self, reason: Reason | None) -> None:
        """Count a request that was turned away at the door; None for one that failed in another way."""
        if reason is not None:
            self._get(requests.REJECTED).labels(reason.value).inc()

    def retry(self, reason: Reason) -> None:
        """Count a further attempt."""
        self._get(requests.RETRIES).labels(reason.value).inc()

    def guarded(self, guardrail: str, stage: str, action: str, took_s: float) -> None:
        """Count what a guardrail did."""
        self._get(guardrails.ACTIONS).labels(guardrail, stage, action).inc()
        if stage != "stream":
            self._get(guardrails.DURATION).labels(guardrail, stage).observe(took_s)

    def replica_failed(self, pool: str) -> None:
        """Count an attempt that a replica failed."""
        self._get(requests.REPLICA_FAILURES).labels(pool).inc()

    def decision_dropped(self) -> None:
        """Count a record that was lost."""
        self._get(requests.DECISIONS_DROPPED).inc()

    def log_line_dropped(self) -> None:
        """Count a line of the request log that was lost."""
        self._get(observability.LOG_LINES_DROPPED).inc()

    def model_chosen(self, model: str, goal: Goal) -> None:
        """Count a choice of a model."""
        self._get(model_routing.MODEL_CHOICES).labels(model, goal.value).inc()

    def model_failed(self, model: str) -> None:
        """Count a request that goes on to another model."""
        self._get(model_routing.MODEL_FALLBACKS).labels(model).inc()

    def feedback(self, source: FeedbackSource, result: FeedbackResult) -> None:
        """Count a judgement."""
        self._get(model_routing.FEEDBACK).labels(source.value, result.value).inc()

    def outcome_dropped(self) -> None:
        """Count an outcome that was lost."""
        self._get(model_routing.OUTCOMES_DROPPED).inc()

    def model_state(self, age_s: float) -> None:
        """Show how old what models are chosen from may be."""
        self._get(model_routing.MODEL_STATE_AGE).set(max(0.0, age_s))

    def fleet(self, reports: Iterable[ReplicaReport]) -> None:
        """Show the routing table."""
        gauge = self._get(requests.REPLICAS)
        gauge.clear()
        for (pool, phase), number in Count((r.pool, r.phase.value) for r in reports).items():
            gauge.labels(pool, phase).set(number)

    def charged(self, payer: Payer, tenant: str, source: EnergySource, energy_j: float) -> None:
        """Count energy that requests used; `tenant` is the payer's name among the series."""
        self._get(fleet.ENERGY).labels(payer.pool, source.value).inc(energy_j)
        self._get(fleet.MODEL_ENERGY).labels(payer.model, source.value).inc(energy_j)
        self._get(fleet.TENANT_ENERGY).labels(tenant, source.value).inc(energy_j)
        self._charged_j[payer.pool, source] += energy_j

    def unattributed(self, pool: str, source: EnergySource, energy_j: float) -> None:
        """Count energy that nobody used."""
        self._get(fleet.ENERGY).labels(pool, source.value).inc(energy_j)
        self._get(fleet.UNATTRIBUTED_ENERGY).labels(pool, source.value).inc(energy_j)

    def plan(self, plan: PublishedPlan) -> None:
        """Show the provisioner's last decision."""
        for target in plan.plan.pools:
            self._get(fleet.REPLICAS_WANTED).labels(target.pool).set(target.replicas)
        power, errors = self._get(fleet.POOL_POWER), self._get(fleet.METER_ERRORS)
        power.clear()
        for pool in plan.pools:
            if pool.power_w is not None and pool.power_source is not None:
                power.labels(pool.pool, pool.power_source.value).set(pool.power_w)
        errors.clear()
        for (meter, why), count in Count((meter, why) for meter, _, why in plan.meter_errors).items():
            errors.labels(meter, why).set(count)
        self._get(fleet.PLAN_POWER).set(plan.plan.power_w or 0.0)
        self._get(fleet.PLAN_DEGRADED).set(float(plan.plan.degraded))

    def text(self, *, in_flight: int, queued: int) -> bytes:
        """The Prometheus text format."""
        self._get(requests.REQUESTS_IN_FLIGHT).set(in_flight)
        self._get(requests.REQUESTS_QUEUED).set(queued)
        return generate_latest(self._registry)
