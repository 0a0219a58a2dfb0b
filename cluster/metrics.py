"""The one catalogue of Prometheus metrics: names, kinds, help texts, labels and buckets.

Exporters, dashboards and the documentation are made from it, so a metric that is not here does not exist.
Labels take values from closed sets (roles, reasons, configured names), never from what a client sent.
"""

from dataclasses import dataclass
from typing import Literal

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, in its unit, without +Inf."""


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
)
TPOT = Metric(
    "tidemill_tpot_seconds",
    "histogram",
    "Time per output token after the first: (e2e - TTFT) / (output tokens - 1).",
    ("path",),
    _TOKEN_BUCKETS_S,
)
E2E = Metric(
    "tidemill_e2e_seconds",
    "histogram",
    "From arrival at the router to the last byte sent.",
    ("path",),
    _LATENCY_BUCKETS_S,
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
REPLICAS = Metric("tidemill_replicas", "gauge", "Replicas in the routing table.", ("pool", "phase"))
ENERGY = Metric(
    "tidemill_energy_joules_total",
    "counter",
    "Energy of a pool's replicas, as charged to this router's requests or to nobody, by whether it was "
    "measured or modelled.",
    ("pool", "source"),
)
MODEL_ENERGY = Metric(
    "tidemill_model_energy_joules_total",
    "counter",
    "Energy charged to requests for a model.",
    ("model", "source"),
)
TENANT_ENERGY = Metric(
    "tidemill_tenant_energy_joules_total",
    "counter",
    "Energy charged to a tenant's requests; tenants beyond telemetry.tenants_max are `other`.",
    ("tenant", "source"),
)
UNATTRIBUTED_ENERGY = Metric(
    "tidemill_unattributed_energy_joules_total",
    "counter",
    "Energy that was used while no request was there.",
    ("pool", "source"),
)
ENERGY_PER_OUTPUT_TOKEN = Metric(
    "tidemill_energy_per_output_token_joules",
    "gauge",
    "Energy charged to a pool's requests, by output token, since the router started.",
    ("pool", "source"),
)
POOL_POWER = Metric(
    "tidemill_pool_power_watts",
    "gauge",
    "Power of a pool's replicas over the last window.",
    ("pool", "source"),
)
METER_ERRORS = Metric(
    "tidemill_energy_meter_errors",
    "gauge",
    "Devices that an energy meter cannot read now, by meter and reason.",
    ("meter", "error"),
)
REPLICAS_WANTED = Metric(
    "tidemill_pool_replicas_wanted", "gauge", "Replicas that the provisioner wants of a pool.", ("pool",)
)
PLAN_POWER = Metric(
    "tidemill_plan_power_watts", "gauge", "Power that the plan is predicted to draw at the forecast demand."
)
PLAN_DEGRADED = Metric(
    "tidemill_plan_degraded",
    "gauge",
    "1 while the forecast demand cannot be served within the objectives, else 0.",
)
PLAN_AGE = Metric(
    "tidemill_plan_age_seconds",
    "gauge",
    "Time since the provisioner's last decision; grows while it is away.",
)
DECISIONS_DROPPED = Metric(
    "tidemill_decisions_dropped_total",
    "counter",
    "Decision records that were not written because the queue to the log was full.",
)
MODEL_CHOICES = Metric(
    "tidemill_model_choices_total",
    "counter",
    "Requests that left the model open, by the model that was chosen and what was wanted.",
    ("model", "goal"),
)
MODEL_FALLBACKS = Metric(
    "tidemill_model_fallbacks_total",
    "counter",
    "Requests that left the model open and went on to another one because the chosen one failed.",
    ("model",),
)
TEXT_SIGNALS_MISSING = Metric(
    "tidemill_text_signals_missing_total",
    "counter",
    "Models chosen without the prompt's embedding, category and language, because they did not come in time.",
)
CASCADE_ANSWERS = Metric(
    "tidemill_cascade_answers_total",
    "counter",
    "Answers that were judged before they were sent, by model and verdict (accepted or escalated).",
    ("model", "verdict"),
)
FEEDBACK = Metric(
    "tidemill_feedback_total",
    "counter",
    "Judgements of answers, by source and what became of them.",
    ("source", "result"),
)
OUTCOMES_DROPPED = Metric(
    "tidemill_model_outcomes_dropped_total",
    "counter",
    "Outcomes and signals that nothing was learnt from because the learner was away for too long.",
)
MODEL_STATE_AGE = Metric(
    "tidemill_model_state_age_seconds",
    "gauge",
    "Time since the learner last said what it knows; grows while it is away.",
)
CACHE_LOOKUPS = Metric(
    "tidemill_cache_lookups_total", "counter", "Look-ups in the semantic cache.", ("outcome",)
)
CACHE_ENTRIES = Metric("tidemill_cache_entries", "gauge", "Answers held by the semantic cache.")
CACHE_BYTES = Metric("tidemill_cache_bytes", "gauge", "Size of the answers held by the semantic cache.")
CACHE_EVICTIONS = Metric(
    "tidemill_cache_evictions_total", "counter", "Answers the semantic cache gave up.", ("reason",)
)
CACHE_WAITERS = Metric(
    "tidemill_cache_waiters", "gauge", "Requests that wait for an identical one that is being computed."
)
LOOKUPS_SKIPPED = Metric(
    "tidemill_lookups_skipped_total",
    "counter",
    "Requests that went on without the semantic cache because it was away or did not answer in time.",
)
CACHE_SEMANTIC_LOOKUPS = Metric(
    "tidemill_cache_semantic_lookups_total",
    "counter",
    "Look-ups of near matches, by category and verdict: serve, explore (answered fresh to be judged), near "
    "(not near enough to be served), miss, off.",
    ("category", "verdict"),
)
CACHE_GUARD_REFUSALS = Metric(
    "tidemill_cache_guard_refusals_total",
    "counter",
    "Nearest entries that a guard refused: numbers, negation, opposites, names and so on.",
    ("guard",),
)
CACHE_JUDGEMENTS = Metric(
    "tidemill_cache_judgements_total",
    "counter",
    "Near matches that were answered fresh and judged: right or wrong.",
    ("category", "verdict"),
)
CACHE_SEMANTIC_REMOVALS = Metric(
    "tidemill_cache_semantic_removals_total",
    "counter",
    "Entries for near matches that the semantic cache gave up.",
    ("reason",),
)
CACHE_SAVED_TOKENS = Metric(
    "tidemill_cache_saved_tokens_total", "counter", "Output tokens that near matches did not need to compute."
)
CACHE_SAVED_SECONDS = Metric(
    "tidemill_cache_saved_seconds_total", "counter", "What the answers that near matches got took to compute."
)
CACHE_SAVED_ENERGY = Metric(
    "tidemill_cache_saved_joules_total",
    "counter",
    "Energy charged to the computation of answers that near matches got.",
)
CACHE_SEMANTIC_DROPPED = Metric(
    "tidemill_cache_semantic_dropped_total",
    "counter",
    "Steps left out because they did not come in time or too many waited: unread (no embedding), unjudged, "
    "unwritten.",
    ("step",),
)
CACHE_SIMILARITY = Metric(
    "tidemill_cache_similarity_ratio",
    "histogram",
    "Cosine of what was asked and the entry that was found for it.",
    (),
    (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 1.0),
)
CACHE_HIT_AGE = Metric(
    "tidemill_cache_hit_age_seconds",
    "histogram",
    "Age of answers when near matches got them.",
    (),
    (60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0),
)
CACHE_SILENT_TENANTS = Metric(
    "tidemill_cache_silent_tenants",
    "gauge",
    "Tenants that asked for near matches often and never had one: their fingerprints never match.",
)
CACHE_SEMANTIC_ENTRIES = Metric(
    "tidemill_cache_semantic_entries", "gauge", "Entries for near matches, by category.", ("category",)
)
CACHE_THRESHOLD = Metric(
    "tidemill_cache_threshold_ratio",
    "gauge",
    "Score (cosine, lifted by agreement) from which near matches of a category are served; 9 serves none.",
    ("category",),
)
CACHE_WRONG_RATE = Metric(
    "tidemill_cache_wrong_ratio",
    "gauge",
    "Wrong answers among judged near matches above the threshold.",
    ("category",),
)
CACHE_WRONG_RATE_UPPER = Metric(
    "tidemill_cache_wrong_upper_ratio",
    "gauge",
    "Upper bound on tidemill_cache_wrong_ratio from the category's own judgements; 1 where there are none.",
    ("category",),
)
CACHE_HIT_RATE = Metric(
    "tidemill_cache_hit_ratio",
    "gauge",
    "Hits among look-ups of near matches, recent ones first.",
    ("category",),
)
CACHE_BREAK_EVEN = Metric(
    "tidemill_cache_break_even_ratio",
    "gauge",
    "Hit rate from which look-ups of a category pay.",
    ("category",),
)
CACHE_QUOTA_USE = Metric(
    "tidemill_cache_quota_ratio",
    "gauge",
    "Part of a category's quota of entries that is used.",
    ("category",),
)

CATALOGUE: tuple[Metric, ...] = (
    REQUESTS,
    REQUESTS_IN_FLIGHT,
    REQUESTS_QUEUED,
    REJECTED,
    TTFT,
    TPOT,
    E2E,
    ROUTER_OVERHEAD,
    PROMPT_TOKENS,
    OUTPUT_TOKENS,
    FALLBACKS,
    RETRIES,
    REPLICA_FAILURES,
    REPLICAS,
    DECISIONS_DROPPED,
    ENERGY,
    MODEL_ENERGY,
    TENANT_ENERGY,
    UNATTRIBUTED_ENERGY,
    ENERGY_PER_OUTPUT_TOKEN,
    POOL_POWER,
    METER_ERRORS,
    REPLICAS_WANTED,
    PLAN_POWER,
    PLAN_DEGRADED,
    PLAN_AGE,
    MODEL_CHOICES,
    MODEL_FALLBACKS,
    TEXT_SIGNALS_MISSING,
    CASCADE_ANSWERS,
    FEEDBACK,
    OUTCOMES_DROPPED,
    MODEL_STATE_AGE,
    LOOKUPS_SKIPPED,
    CACHE_LOOKUPS,
    CACHE_ENTRIES,
    CACHE_BYTES,
    CACHE_EVICTIONS,
    CACHE_WAITERS,
    CACHE_SEMANTIC_LOOKUPS,
    CACHE_GUARD_REFUSALS,
    CACHE_JUDGEMENTS,
    CACHE_SEMANTIC_REMOVALS,
    CACHE_SAVED_TOKENS,
    CACHE_SAVED_SECONDS,
    CACHE_SAVED_ENERGY,
    CACHE_SEMANTIC_DROPPED,
    CACHE_SIMILARITY,
    CACHE_HIT_AGE,
    CACHE_SILENT_TENANTS,
    CACHE_SEMANTIC_ENTRIES,
    CACHE_THRESHOLD,
    CACHE_WRONG_RATE,
    CACHE_WRONG_RATE_UPPER,
    CACHE_HIT_RATE,
    CACHE_BREAK_EVEN,
    CACHE_QUOTA_USE,
)
"""Everything above, in the order dashboards show it."""
