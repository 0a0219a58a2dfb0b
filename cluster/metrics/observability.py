"""What is lost of logs, so that a gap in them can be told from silence."""

from cluster.metrics.metric import Metric

LOG_LINES_DROPPED = Metric(
    "tidemill_log_lines_dropped_total",
    "counter",
    "Lines of the request log that were lost because the disk was too slow or full.",
)

METRICS = (LOG_LINES_DROPPED,)
