"""The semantic cache: what it holds, what it saves, how often it is wrong."""

from cluster.metrics.metric import Metric

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
CACHE_SAVED_MONEY = Metric(
    "tidemill_cache_saved_usd_total",
    "counter",
    "What answers that near matches got would have cost, at the prices of their models.",
)
CACHE_SEMANTIC_DROPPED = Metric(
    "tidemill_cache_semantic_dropped_total",
    "counter",
    "Steps left out because they did not come in time or too many waited: unread (no embedding), away (no "
    "documents), unjudged, unwritten.",
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
CACHE_ERROR_MAX = Metric(
    "tidemill_cache_error_max_ratio",
    "gauge",
    "Wrong answers that a category may give among near matches (semantic_cache.semantic error_max).",
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

METRICS = (
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
    CACHE_SAVED_MONEY,
    CACHE_SEMANTIC_DROPPED,
    CACHE_SIMILARITY,
    CACHE_HIT_AGE,
    CACHE_SILENT_TENANTS,
    CACHE_SEMANTIC_ENTRIES,
    CACHE_THRESHOLD,
    CACHE_WRONG_RATE,
    CACHE_WRONG_RATE_UPPER,
    CACHE_ERROR_MAX,
    CACHE_HIT_RATE,
    CACHE_BREAK_EVEN,
    CACHE_QUOTA_USE,
)
