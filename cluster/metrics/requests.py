"""Requests at the router: how many, how long, what was turned away or tried again."""

from cluster.metrics.metric import Metric

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0)

REQUESTS = Metric(
    "tidemill_requests_total",
    "counter",
    "Requests answered, by HTTP surface, path taken, HTTP status and outcome of the semantic cache.",
    ("surface", "path", "status", "cache"),
)
REQUESTS_IN_FLIGHT = Metric("tidemill_requests_in_flight", "gauge", "Requests that the router is working on.")
REQUESTS_QUEUED = Metric(
    "tidemill_requests_queued", "gauge", "Requests that wait in the router for an engine."
)
REJECTED = Metric(
    "tidemill_rejected_total",
    "counter",
    "Requests turned away before any work was done on them.",
    ("reason",),
)
TTFT = Metric(
    "tidemill_ttft_seconds",
    "histogram",
    "Time to first token: from arrival at the router to the first token sent.",
    ("path",),
    _LATENCY_BUCKETS_S,
    panel="TTFT",
)
TPOT = Metric(
    "tidemill_tpot_seconds",
    "histogram",
    "Time per output token after the first: (e2e - TTFT) / (output tokens - 1).",
    ("path",),
    _TOKEN_BUCKETS_S,
    panel="TPOT",
)
ITL = Metric(
    "tidemill_itl_seconds",
    "histogram",
    "Inter-token latency: each gap between pieces of a streamed answer, as they came from the engine.",
    ("path",),
    _TOKEN_BUCKETS_S,
    panel="ITL",
)
E2E = Metric(
    "tidemill_e2e_seconds",
    "histogram",
    "From arrival at the router to the last byte sent.",
    ("path",),
    _LATENCY_BUCKETS_S,
    panel="End to end",
)
ROUTER_OVERHEAD = Metric(
    "tidemill_router_overhead_seconds",
    "histogram",
    "From arrival at the router to dispatch to an engine, waiting for a free one included.",
    (),
    _OVERHEAD_BUCKETS_S,
)
PROMPT_TOKENS = Metric(
    "tidemill_prompt_tokens_total", "counter", "Prompt tokens, as the engines counted them.", ("model",)
)
OUTPUT_TOKENS = Metric(
    "tidemill_output_tokens_total", "counter", "Output tokens, as the engines counted them.", ("model",)
)
FALLBACKS = Metric(
    "tidemill_fallbacks_total",
    "counter",
    "Requests meant to be disaggregated that the decode replica computed alone.",
    ("reason",),
)
RETRIES = Metric(
    "tidemill_retries_total", "counter", "Further attempts on another replica after one failed.", ("reason",)
)
REPLICA_FAILURES = Metric(
    "tidemill_replica_failures_total", "counter", "Attempts that a replica failed.", ("pool",)
)
REPLICAS = Metric(
    "tidemill_replicas", "gauge", "Replicas in the routing table.", ("pool", "phase"), everywhere=True
)
LOOKUPS_SKIPPED = Metric(
    "tidemill_lookups_skipped_total",
    "counter",
    "Requests that went on without the semantic cache because it was away or did not answer in time.",
)
DECISIONS_DROPPED = Metric(
    "tidemill_decisions_dropped_total",
    "counter",
    "Decision records that were not written because the queue to the log was full.",
)

METRICS = (
    REQUESTS,
    REQUESTS_IN_FLIGHT,
    REQUESTS_QUEUED,
    REJECTED,
    TTFT,
    TPOT,
    ITL,
    E2E,
    ROUTER_OVERHEAD,
    PROMPT_TOKENS,
    OUTPUT_TOKENS,
    FALLBACKS,
    RETRIES,
    REPLICA_FAILURES,
    REPLICAS,
    LOOKUPS_SKIPPED,
    DECISIONS_DROPPED,
)
