"""What users were promised and got, and what the provisioner expects and why it plans as it does."""

from cluster.metrics.metric import Metric

SLO_REQUESTS = Metric(
    "tidemill_slo_requests_total",
    "counter",
    "Requests by model: met every objective, missed one, or failed (answered with 429 or 5xx).",
    ("model", "result"),
    panel="Requests by objective",
)
SLO_TARGET = Metric(
    "tidemill_slo_target_ratio",
    "gauge",
    "Share of a model's requests that are to meet their objectives (models.*.slo.attainment).",
    ("model",),
    panel="Share promised",
    everywhere=True,
)
DEMAND = Metric(
    "tidemill_demand_requests_total",
    "counter",
    "Requests that needed an engine, by model and length of prompt.",
    ("model", "workload_class"),
)
FORECAST = Metric(
    "tidemill_forecast_requests_per_second",
    "gauge",
    "Arrivals that the provisioner expects: mean, and upper end of the band it is ready for.",
    ("model", "workload_class", "bound"),
    everywhere=True,
)
PLAN_REASONS = Metric(
    "tidemill_plan_reasons",
    "gauge",
    "1 for each reason that shaped the provisioner's last plan as a whole.",
    ("reason",),
    everywhere=True,
)
POOL_PLAN_REASONS = Metric(
    "tidemill_pool_plan_reasons",
    "gauge",
    "1 for each reason that shaped the last plan for a pool.",
    ("pool", "reason"),
    everywhere=True,
)
REPLICAS_REQUESTED = Metric(
    "tidemill_pool_replicas_requested",
    "gauge",
    "Replicas of a pool that Serve has been asked for, whether or not they are there.",
    ("pool",),
    everywhere=True,
)
REPORT_AGE = Metric(
    "tidemill_pool_report_age_seconds",
    "gauge",
    "Age of the oldest report of a pool's ready replicas in the provisioner's last snapshot.",
    ("pool",),
    everywhere=True,
)
FLEET_VIEW_AGE = Metric(
    "tidemill_fleet_view_age_seconds",
    "gauge",
    "Time since the directory last told this router of the fleet; grows while it is away.",
)

METRICS = (
    SLO_REQUESTS,
    SLO_TARGET,
    DEMAND,
    FORECAST,
    PLAN_REASONS,
    POOL_PLAN_REASONS,
    REPLICAS_REQUESTED,
    REPORT_AGE,
    FLEET_VIEW_AGE,
)
