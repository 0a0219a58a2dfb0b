"""Guardrails: what they did, and how long they took."""

from cluster.metrics.metric import Metric

ACTIONS = Metric(
    "tidemill_guardrail_actions_total",
    "counter",
    "Requests, whole answers and texts of streams that a guardrail looked at, by what it did.",
    ("guardrail", "stage", "action"),
)
DURATION = Metric(
    "tidemill_guardrail_seconds",
    "histogram",
    "What a guardrail took over a request or a whole answer.",
    ("guardrail", "stage"),
    (0.00001, 0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
)

METRICS = (ACTIONS, DURATION)
