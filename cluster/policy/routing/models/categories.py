"""What a prompt is about: sixteen categories, told by a linear model on its sentence embedding.

The fourteen are the domains of MMLU-Pro (arXiv 2406.01574), with `code` and `chat` beside them. The weights
are fitted elsewhere (`load_tests/category_classifier.py`) and come in as data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OTHER = "other"
"""MMLU-Pro's own mixed bag, and where a prompt belongs that fits nowhere else."""
CATEGORIES = (
    "biology",
    "business",
    "chat",
    "chemistry",
    "code",
    "computer_science",
    "economics",
    "engineering",
    "health",
    "history",
    "law",
    "math",
    OTHER,
    "philosophy",
    "physics",
    "psychology",
)
"""Closed: the values of `category` in logs and rules, and the order of a model's columns."""
CONFIDENCE_MIN = 0.4
"""A less probable category is not said: of 7 % of the prompts, and it would be right for a third of them."""
_LANGUAGES_READ = frozenset({"en", "und"})
"""What the encoder was trained on, and what is in no language, such as code. Elsewhere probabilities mean
nothing: a French question about tides is mathematics with 64 %."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CategoryModel:
    """Multinomial logistic regression: a column of weights and a bias for each category."""

    weights: NDArray[np.float32]
    """Embedding dimensions by categories."""
    biases: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse weights of another shape.

        Raises:
            ValueError: there is not one column for each category.
        """
        columns = len(CATEGORIES)
        if self.weights.ndim != 2 or self.weights.shape[1] != columns or self.biases.shape != (columns,):
            raise ValueError(f"a category model has {columns} columns, this one {self.weights.shape}")

    def probabilities(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """One probability per category, for one embedding or for rows of them."""
        scores = np.asarray(embeddings @ self.weights + self.biases, dtype=np.float64)
        odds = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryGuess:
    """The category of one prompt."""

    category: str = OTHER
    confidence: float = 0.0
    """Probability that it is this one."""


def classify(
    embedding: Sequence[float] | NDArray[np.float32], model: CategoryModel, *, language: str
) -> CategoryGuess:
    """The likeliest category.

    `other` if even that is unlikely, with the probability of `other`; and, without any confidence, for a text
    in a language that the encoder does not read.

    Raises:
        ValueError: the embedding has another number of dimensions than the model.
    """
    if language not in _LANGUAGES_READ:
        return CategoryGuess()
    probabilities = model.probabilities(np.asarray(embedding, dtype=np.float32))
    best = int(probabilities.argmax())
    if probabilities[best] < CONFIDENCE_MIN:
        best = CATEGORIES.index(OTHER)
    return CategoryGuess(category=CATEGORIES[best], confidence=float(probabilities[best]))
