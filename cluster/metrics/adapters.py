"""What a replica's adapter pager does: served on the replica's own port, beside the engine's metrics."""

from cluster.metrics.metric import Metric

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)

ADAPTER_REQUESTS = Metric(
    "tidemill_adapter_requests_total",
    "counter",
    "Requests for an adapter, by where the adapter lay when they came.",
    ("tier",),
)
ADAPTER_REFUSED = Metric(
    "tidemill_adapter_refused_total",
    "counter",
    "Requests for an adapter that were not served, by reason.",
    ("reason",),
)
ADAPTER_DEGRADED = Metric(
    "tidemill_adapter_degraded_total",
    "counter",
    "Requests that left their adapter open and were answered by another one (resident) or the base model, "
    "because theirs took too long.",
    ("answered_by",),
)
ADAPTER_PAGE_IN = Metric(
    "tidemill_adapter_page_in_seconds",
    "histogram",
    "Time from the beginning of a page-in until the adapter was in a slot, by where it lay.",
    ("tier",),
    _SECONDS,
)
ADAPTER_PARKED = Metric(
    "tidemill_adapter_parked_seconds",
    "histogram",
    "Time that requests were parked outside the engine until their adapter was in a slot.",
    (),
    _SECONDS,
)
ADAPTER_PARKED_NOW = Metric(
    "tidemill_adapter_parked_requests", "gauge", "Requests parked outside the engine now."
)
ADAPTER_STALL = Metric(
    "tidemill_adapter_decode_stall_seconds_total",
    "counter",
    "Time for which loads kept an engine with running requests from computing.",
)
ADAPTER_ENTRIES = Metric(
    "tidemill_adapter_entries",
    "gauge",
    "Adapters of the catalogue, by where this replica has them.",
    ("tier",),
)
ADAPTER_RESIDENT = Metric(
    "tidemill_adapter_resident_entries",
    "gauge",
    "1 for each adapter in a slot of this replica's engine.",
    ("adapter", "pinned"),
)
ADAPTER_EVICTIONS = Metric(
    "tidemill_adapter_evictions_total", "counter", "Adapters that left a slot, by reason.", ("reason",)
)
ADAPTER_PREFETCHES = Metric(
    "tidemill_adapter_prefetches_total",
    "counter",
    "Adapters loaded ahead of need, by whether somebody asked for them before they left again.",
    ("result",),
)
ADAPTER_WASTED = Metric(
    "tidemill_adapter_wasted_bytes_total",
    "counter",
    "Weights loaded ahead of need that nobody asked for before they left again.",
)
ADAPTER_FAILURES = Metric(
    "tidemill_adapter_failures_total",
    "counter",
    "Page-ins that failed, by what did: source, files or engine.",
    ("part",),
)
ADAPTER_EXPLORED = Metric(
    "tidemill_adapter_explored_total",
    "counter",
    "Requests whose adapter was chosen so that something is learnt.",
)
ADAPTER_REGRET = Metric(
    "tidemill_adapter_estimated_regret_total",
    "counter",
    "Utility, by the estimates of the moment, that open requests lost against the best adapter there is.",
)
ADAPTER_PLANS = Metric(
    "tidemill_adapter_plans_total",
    "counter",
    "Residency plans, by reason; drift means that requests need other adapters than they did.",
    ("reason",),
)
ADAPTER_PLAN_OBJECTIVE = Metric(
    "tidemill_adapter_plan_objective_ratio",
    "gauge",
    "Utility per request that the last residency plan expects above that of empty slots.",
)
ADAPTER_FEEDBACK_LAG = Metric(
    "tidemill_adapter_feedback_lag_seconds",
    "histogram",
    "Time from a request's arrival at the replica until its answer was judged.",
    (),
    (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0),
)

METRICS = (
    ADAPTER_REQUESTS,
    ADAPTER_REFUSED,
    ADAPTER_DEGRADED,
    ADAPTER_PAGE_IN,
    ADAPTER_PARKED,
    ADAPTER_PARKED_NOW,
    ADAPTER_STALL,
    ADAPTER_ENTRIES,
    ADAPTER_RESIDENT,
    ADAPTER_EVICTIONS,
    ADAPTER_PREFETCHES,
    ADAPTER_WASTED,
    ADAPTER_FAILURES,
    ADAPTER_EXPLORED,
    ADAPTER_REGRET,
    ADAPTER_PLANS,
    ADAPTER_PLAN_OBJECTIVE,
    ADAPTER_FEEDBACK_LAG,
)
