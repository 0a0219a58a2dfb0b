"""Prompts as vectors: the deployed encoder's, or word counts for machines that should not wait for it."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from cluster.policy.routing.models.categories import classify
from deployments.encoder.categories import load_category_model
from load_tests.embeddings import embed
from load_tests.model_tables.table import ModelTable, Numbers, Rows

FeatureKind = Literal["minilm", "tfidf"]

TFIDF_DIMS = 32
_RARE_BELOW = 3
_SVD_SEED = 0


def text_vectors(
    prompts: Sequence[str], kind: FeatureKind, fit_rows: Rows, cache: Path | None = None
) -> Numbers:
    """One vector of unit length per prompt.

    Args:
        prompts: texts.
        kind: of vectors; `minilm` is the deployed encoder with 384 dimensions, `tfidf` the leading singular
            vectors of weighed words and word pairs.
        fit_rows: prompts that `tfidf` may learn words from.
        cache: file of embeddings known already.
    """
    if kind == "minilm":
        return embed(prompts, cache).astype(np.float64)
    return _tfidf(prompts, fit_rows)


def guessed_categories(table: ModelTable, cache: Path | None = None) -> ModelTable:
    """The table with the categories that the shipped classifier gives its prompts, as a router would."""
    model = load_category_model()
    guesses = [classify(vector, model, language="en").category for vector in embed(table.prompts, cache)]
    return replace(table, categories=tuple(guesses))


def _tfidf(prompts: Sequence[str], fit_rows: Rows) -> Numbers:
    counts = [Counter(_terms(prompt)) for prompt in prompts]
    documents: Counter[str] = Counter()
    for row in fit_rows:
        documents.update(counts[row].keys())
    kept = sorted(term for term, seen in documents.items() if seen >= _RARE_BELOW)
    at = {term: index for index, term in enumerate(kept)}
    inverse = [math.log(len(fit_rows) / documents[term]) for term in kept]
    weights: list[float] = []
    places: tuple[list[int], list[int]] = ([], [])
    for row, terms in enumerate(counts):
        found = [(at[term], (1 + math.log(n)) * inverse[at[term]]) for term, n in terms.items() if term in at]
        length = math.sqrt(sum(weight**2 for _, weight in found)) or 1.0
        weights += [weight / length for _, weight in found]
        places[0].extend([row] * len(found))
        places[1].extend(column for column, _ in found)
    matrix = csr_matrix((weights, places), shape=(len(prompts), len(kept)))
    dims = min(TFIDF_DIMS, len(fit_rows) - 1, len(kept) - 1)
    _, _, axes = svds(matrix[fit_rows], k=dims, random_state=_SVD_SEED)
    vectors = np.asarray(matrix @ axes.T)
    spread = vectors[fit_rows].std(axis=0)
    return np.asarray(vectors / np.where(spread > 0, spread, 1.0) / math.sqrt(dims))


def _terms(text: str) -> list[str]:
    words = re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", text.lower())
    return [*words, *(f"{first} {second}" for first, second in pairwise(words))]
