"""Which adapters routers chose, what was learnt of them, and what the coordinator of all nodes does."""

from cluster.metrics.metric import Metric

ADAPTER_ASKED = Metric(
    "tidemill_adapters_asked_total",
    "counter",
    "Requests for an adapter at the router, by base model and how it was found: named, best (chosen for its "
    "score) or explored (chosen by chance or to learn).",
    ("model", "how"),
)
ADAPTER_UNKNOWN = Metric(
    "tidemill_adapters_unknown_total",
    "counter",
    "Requests turned away because they named an adapter that is not in the catalogue.",
)
ADAPTER_PRICE = Metric(
    "tidemill_adapters_price_ratio",
    "histogram",
    "Price of the page-in, in utility, that choices of an adapter accepted; 0 if a node had it in a slot.",
    (),
    (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
)
ADAPTER_STATE_MISSING = Metric(
    "tidemill_adapters_prior_choices_total",
    "counter",
    "Adapters chosen before any node had said what it has learnt, by prior utilities alone.",
)
ADAPTER_NODES = Metric(
    "tidemill_adapters_known_replicas",
    "gauge",
    "Replicas with adapters whose learnt state this router has, of those it knows (known, heard).",
    ("state",),
)
ADAPTER_JUDGEMENTS = Metric(
    "tidemill_adapters_judgements_total",
    "counter",
    "Judgements of answers by an adapter, by source and what became of them.",
    ("source", "result"),
)
ADAPTER_OUTCOMES_DROPPED = Metric(
    "tidemill_adapters_outcomes_dropped_total",
    "counter",
    "Judgements that nothing was learnt from: no node took them for too long, or their adapter is gone.",
)
ADAPTER_FEEDBACK_DELAY = Metric(
    "tidemill_adapters_judgement_delay_seconds",
    "histogram",
    "Time from an answer's end until its judgement was with a node.",
    (),
    (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0),
)
ADAPTER_CATALOGUE = Metric(
    "tidemill_adapters_catalogue_entries",
    "gauge",
    "Adapters in the catalogue, by base model.",
    ("model",),
    everywhere=True,
)
ADAPTER_COORDINATOR_AGE = Metric(
    "tidemill_adapters_coordinator_age_seconds",
    "gauge",
    "Time since the coordinator last finished a round; grows while it is away.",
    everywhere=True,
)
ADAPTER_NODES_AWAY = Metric(
    "tidemill_adapters_visited_replicas",
    "gauge",
    "Replicas with adapters by how the coordinator's last visit went (reached, away).",
    ("state",),
    everywhere=True,
)
ADAPTER_PLACED_COPIES = Metric(
    "tidemill_adapters_placed_entries",
    "gauge",
    "Copies of adapters that the coordinator wants near, over all nodes, by base model.",
    ("model",),
    everywhere=True,
)

METRICS = (
    ADAPTER_ASKED,
    ADAPTER_UNKNOWN,
    ADAPTER_PRICE,
    ADAPTER_STATE_MISSING,
    ADAPTER_NODES,
    ADAPTER_JUDGEMENTS,
    ADAPTER_OUTCOMES_DROPPED,
    ADAPTER_FEEDBACK_DELAY,
    ADAPTER_CATALOGUE,
    ADAPTER_COORDINATOR_AGE,
    ADAPTER_NODES_AWAY,
    ADAPTER_PLACED_COPIES,
)
