"""How good a classifier's probabilities are: accuracy, calibration, confusion."""

from typing import Any

import numpy as np
from scipy.stats import binomtest

from cluster.policy.routing.models.categories import CATEGORIES
from load_tests.signals.logistic_regression import Indices, Numbers

_BINS = 10
_DOMAINS_BESIDE = ("chat", "code")
"""Categories that are no domains of MMLU-Pro."""


def overall(logs: Numbers, classes: Indices) -> dict[str, Any]:
    """Accuracy with its 95 % interval (Wilson), also over MMLU-Pro's questions alone, and calibration."""
    right = logs.argmax(axis=1) == classes
    domains = ~np.isin(classes, [CATEGORIES.index(name) for name in _DOMAINS_BESIDE])
    low, high = _interval(right)
    domains_low, domains_high = _interval(right[domains])
    wanted = np.eye(len(CATEGORIES))[classes]
    return {
        "case": "held_out",
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "domains_accuracy": float(right[domains].mean()),
        "domains_accuracy_low": domains_low,
        "domains_accuracy_high": domains_high,
        "log_loss": -float(logs[np.arange(len(classes)), classes].mean()),
        "brier": float(np.square(np.exp(logs) - wanted).sum(axis=1).mean()),
        "calibration_error": sum(
            abs(part["confidence"] - part["accuracy"]) * part["prompts"]
            for part in reliability(logs, classes)
        )
        / len(classes),
    }


def reliability(logs: Numbers, classes: Indices) -> list[dict[str, Any]]:
    """Ten groups of equally many prompts by confidence: said probability and share that was right."""
    confidence = np.exp(logs.max(axis=1))
    right = logs.argmax(axis=1) == classes
    return [
        {
            "confidence": float(confidence[group].mean()),
            "accuracy": float(right[group].mean()),
            "prompts": len(group),
        }
        for group in np.array_split(np.argsort(confidence, kind="stable"), min(_BINS, len(classes)))
    ]


def at_threshold(logs: Numbers, classes: Indices, confidence_min: float) -> dict[str, Any]:
    """What is said where an unlikely category is not said."""
    said = np.exp(logs.max(axis=1)) >= confidence_min
    right = logs.argmax(axis=1) == classes
    return {
        "case": f"confidence_min={confidence_min:g}",
        "said_share": float(said.mean()),
        "said_accuracy": float(right[said].mean()),
        "unsaid_accuracy": float(right[~said].mean()) if (~said).any() else 0.0,
    }


def by_category(logs: Numbers, classes: Indices) -> list[dict[str, Any]]:
    """How much of each category is found, and how much of what is called so is."""
    called = logs.argmax(axis=1)
    return [
        {
            "case": name,
            "recall": float((called[classes == index] == index).mean()) if (classes == index).any() else 0.0,
            "precision": float((classes[called == index] == index).mean())
            if (called == index).any()
            else 0.0,
            "prompts": int((classes == index).sum()),
        }
        for index, name in enumerate(CATEGORIES)
    ]


def confusion(logs: Numbers, classes: Indices) -> dict[str, Any]:
    """Prompts by true category (rows) and by what they were called (columns)."""
    counts = np.zeros((len(CATEGORIES), len(CATEGORIES)), dtype=np.int64)
    np.add.at(counts, (classes, logs.argmax(axis=1)), 1)
    return {"categories": list(CATEGORIES), "counts": counts.tolist()}


def _interval(right: Any) -> tuple[float, float]:
    found = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
