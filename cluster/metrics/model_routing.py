"""Which models were chosen, and what was learnt from the answers."""

from cluster.metrics.metric import Metric

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

METRICS = (
    MODEL_CHOICES,
    MODEL_FALLBACKS,
    TEXT_SIGNALS_MISSING,
    CASCADE_ANSWERS,
    FEEDBACK,
    OUTCOMES_DROPPED,
    MODEL_STATE_AGE,
)
