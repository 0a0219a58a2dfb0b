"""The category classifier on prompts of another origin and form: MMLU with its options, and GSM8K.

MMLU-Pro took up a part of MMLU and says so in `src` (`ori_mmlu-SUBJECT`), which tells the category of each
subject. Questions that it took up are left out: the fit may have seen them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from cluster.policy.routing.models.categories import CATEGORIES, CategoryModel
from load_tests.embeddings import embed
from load_tests.signals.category_report import overall
from load_tests.text_files import json_rows

_FROM_MMLU = "ori_mmlu-"
_CHARS_COMPARED = 60
"""Questions that begin alike are the same one."""


def transfer(file: Path, questions: Path, model: CategoryModel, cache: Path | None) -> list[dict[str, Any]]:
    """Accuracy and calibration on each benchmark of a file of RouteLLM's evaluations."""
    subjects: dict[str, str] = {}
    taken: set[str] = set()
    for _, row in json_rows(questions, ("question", "src", "category")):
        taken.add(_begin(row["question"]))
        if row["src"].startswith(_FROM_MMLU):
            subjects[row["src"].removeprefix(_FROM_MMLU)] = row["category"].replace(" ", "_")
    labelled: dict[str, dict[str, str]] = {}
    for _, row in json_rows(file, ("prompt", "bench", "category")):
        category = "math" if row["bench"] == "gsm8k" else subjects.get(row["category"])
        if category is not None and _begin(row["prompt"]) not in taken:
            labelled.setdefault(row["bench"], {})[row["prompt"]] = category
    rows: list[dict[str, Any]] = []
    for bench, prompts in labelled.items():
        classes = np.array([CATEGORIES.index(category) for category in prompts.values()])
        logs = np.log(model.probabilities(embed(list(prompts), cache)))
        confidence = float(np.exp(logs.max(axis=1)).mean())
        rows.append({**overall(logs, classes), "case": f"transfer:{bench}", "mean_confidence": confidence})
    return rows


def _begin(question: str) -> str:
    return question.strip()[:_CHARS_COMPARED]
