"""Multinomial logistic regression with an L2 penalty, by L-BFGS; what scikit-learn would do, without it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Linear scores per class; their softmax is the probability."""

    weights: Numbers
    """Features by classes."""
    biases: Numbers

    def log_probabilities(self, rows: Numbers) -> Numbers:
        """One row of log-probabilities for each row of features."""
        return _log_softmax(rows @ self.weights + self.biases)


def fit(rows: Numbers, classes: Indices, *, classes_count: int, penalty: float) -> Fit:
    """Minimise mean cross-entropy + penalty · ‖weights‖² / 2; biases are free.

    Args:
        rows: features.
        classes: index of each row's class.
        classes_count: how many classes there are.
        penalty: larger is smoother.
    """
    count, size = rows.shape
    wanted = np.zeros((count, classes_count))
    wanted[np.arange(count), classes] = 1.0

    def loss(flat: Numbers) -> tuple[float, Numbers]:
        weights = flat[:-classes_count].reshape(size, classes_count)
        logs = _log_softmax(rows @ weights + flat[-classes_count:])
        error = (np.exp(logs) - wanted) / count
        slope = rows.T @ error + penalty * weights
        value = -float((logs * wanted).sum()) / count + penalty / 2 * float(np.square(weights).sum())
        return value, np.concatenate([slope.ravel(), error.sum(axis=0)])

    start = np.zeros((size + 1) * classes_count)
    flat = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-6}).x
    return Fit(
        weights=flat[:-classes_count].reshape(size, classes_count), biases=np.array(flat[-classes_count:])
    )


def sharpness(log_probabilities: Numbers, classes: Indices) -> float:
    """The factor on the scores with which probabilities fit these outcomes best (temperature scaling)."""

    def loss(log_factor: float) -> float:
        logs = _log_softmax(log_probabilities * np.exp(log_factor))
        return -float(logs[np.arange(len(classes)), classes].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x))


def _log_softmax(scores: Numbers) -> Numbers:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
