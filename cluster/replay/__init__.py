"""Logs of decisions: their form, reading them, and taking the decisions again."""

from cluster.replay.codec import DecisionLogError
from cluster.replay.requests import Difference, from_json, read_log, redecide, to_json

__all__ = ["DecisionLogError", "Difference", "from_json", "read_log", "redecide", "to_json"]
