"""Fits and tests the category classifier of model routing: logistic regression on sentence embeddings.

    python -m load_tests.category_classifier --questions mmlu_pro_questions.jsonl.gz \
        --code humaneval.jsonl.gz mbpp.jsonl.gz mtbench.jsonl.gz \
        --chat ifeval.jsonl.gz mtbench.jsonl.gz clinc150.json.gz --json [--out PATH]

Every figure is of prompts that the fit has not seen: five folds, over several shufflings. `--out` writes the
fit on all of them; it is shipped as `deployments/encoder/category_weights.npz`. Formats: load_tests/data.md.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.policy.routing.models.categories import (
    CATEGORIES,
    CONFIDENCE_MIN,
    CategoryModel,
    classify,
)
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.embeddings import embed, to_stderr
from load_tests.record import circumstances
from load_tests.signals.category_report import at_threshold, by_category, confusion, overall, reliability
from load_tests.signals.category_transfer import transfer
from load_tests.signals.code_prompts import CODE_PROMPTS
from load_tests.signals.logistic_regression import Indices, Numbers, fit, sharpness
from load_tests.text_files import FileError, json_document, json_rows

_FOLDS = 5
_PENALTIES = (4e-5, 2.5e-5, 1.5e-5, 1e-5)
_TIMED_TEXTS = 2000
_KINDS = {"code": {"coding"}, "chat": {"writing", "roleplay", "extraction"}}
"""MT-Bench's kinds of questions that belong to a category; the others are of some domain."""
_CLINC_STEP = 4
"""Every fourth utterance of CLINC150's validation part: five of each of its 150 intents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Different texts, each with its category."""

    texts: list[str]
    categories: Indices
    """Indices into `CATEGORIES`."""
    embeddings: Numbers


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, test, and write what was fitted."""
    parser = Parser(prog="python -m load_tests.category_classifier", description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=Path, required=True, help="MMLU-Pro questions with categories")
    parser.add_argument("--code", type=Path, nargs="+", required=True, help="prompts that ask for code")
    parser.add_argument("--chat", type=Path, nargs="+", required=True, help="prompts of no domain")
    parser.add_argument("--transfer", type=Path, help="also test on these evaluations of RouteLLM")
    parser.add_argument("--out", type=Path, help="write the fit on all prompts to this .npz file")
    parser.add_argument("--seeds", type=bounded(int, 1, 100), default=5, help="shufflings of the folds")
    parser.add_argument("--cache", type=Path, help="file that keeps embeddings between runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)

    try:
        prompts = read_prompts(given.questions, given.code, given.chat, given.cache)
    except (FileError, OSError) as error:
        parser.error(str(error))
    penalty = best_penalty(prompts)
    to_stderr(f"{len(prompts.texts)} prompts, penalty {penalty:g}")
    rows: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        logs = held_out(prompts, penalty=penalty, seed=seed)
        rows += [
            {"policy": "logistic_regression", "seed": seed, **row}
            for row in (
                overall(logs, prompts.categories),
                at_threshold(logs, prompts.categories, CONFIDENCE_MIN),
                *by_category(logs, prompts.categories),
            )
        ]
        to_stderr(f"seed {seed}: {overall(logs, prompts.categories)}")
        if seed == 0:
            details = {
                "confusion": confusion(logs, prompts.categories),
                "reliability": reliability(logs, prompts.categories),
                "best_sharpness": sharpness(logs, prompts.categories),
            }
    model = fitted(prompts, penalty=penalty)
    rows.append({"policy": "logistic_regression", "seed": 0, **classify_times(model, prompts)})
    if given.transfer is not None:
        try:
            found = transfer(given.transfer, given.questions, model, given.cache)
        except FileError as error:
            parser.error(str(error))
        rows += [{"policy": "logistic_regression", "seed": 0, **row} for row in found]
    if given.out is not None:
        write_model(given.out, model)
    result = {
        "benchmark": "category_classifier",
        "command": spelled("category_classifier", arguments),
        **circumstances(None),
        "prompts": len(prompts.texts),
        "penalty": penalty,
        "rows": rows,
        **details,
    }
    if given.json:
        print_json(result)
    else:
        print(_as_text(rows))
    return 0


def read_prompts(questions: Path, code: Sequence[Path], chat: Sequence[Path], cache: Path | None) -> Prompts:
    """All different texts; one that stands in several files has the category of the first."""
    labelled: dict[str, str] = {}
    for number, row in json_rows(questions, ("question", "category")):
        category = str(row["category"]).replace(" ", "_")
        if category not in CATEGORIES:
            raise FileError(
                f"{questions}: line {number}: no category {category!r}; there are {', '.join(CATEGORIES)}"
            )
        labelled.setdefault(row["question"], category)
    for category, files in (("code", code), ("chat", chat)):
        for file in files:
            for text in texts_of(file, category):
                labelled.setdefault(text, category)
    for text in CODE_PROMPTS:
        labelled.setdefault(text, "code")
    texts = list(labelled)
    return Prompts(
        texts=texts,
        categories=np.array([CATEGORIES.index(labelled[text]) for text in texts]),
        embeddings=embed(texts, cache).astype(np.float64),
    )


def texts_of(file: Path, category: str) -> Iterator[str]:
    """What users say in a file: `prompt`, `query`, `turns` of the right kind, or CLINC150's utterances."""
    if file.name.removesuffix(".gz").endswith(".json"):
        parts = json_document(file)
        if not isinstance(parts, dict) or not isinstance(parts.get("val"), list):
            raise FileError(f"{file}: expected an object with a list `val`")
        yield from (text for text, _ in parts["val"][::_CLINC_STEP])
        return
    for number, row in json_rows(file):
        if "turns" in row:
            yield from row["turns"] if row.get("category") in _KINDS[category] else ()
        elif "prompt" in row or "query" in row:
            yield row["prompt"] if "prompt" in row else row["query"]
        else:
            raise FileError(f"{file}: line {number}: no key 'prompt', 'query' or 'turns'")


def best_penalty(prompts: Prompts) -> float:
    """The penalty with which prompts that were not seen are the least surprising."""
    losses: dict[float, float] = {}
    for penalty in _PENALTIES:
        logs = held_out(prompts, penalty=penalty, seed=0)
        losses[penalty] = overall(logs, prompts.categories)["log_loss"]
        to_stderr(f"penalty {penalty:g}: log loss {losses[penalty]:.4f}")
    return min(losses, key=losses.__getitem__)


def held_out(prompts: Prompts, *, penalty: float, seed: int) -> Numbers:
    """Log-probabilities of every prompt by a fit on the other folds."""
    fold = np.random.default_rng(seed).permutation(len(prompts.texts)) % _FOLDS
    logs = np.empty((len(prompts.texts), len(CATEGORIES)))
    for number in range(_FOLDS):
        rest = fold != number
        made = fit(
            prompts.embeddings[rest],
            prompts.categories[rest],
            classes_count=len(CATEGORIES),
            penalty=penalty,
        )
        logs[~rest] = made.log_probabilities(prompts.embeddings[~rest])
    return logs


def fitted(prompts: Prompts, *, penalty: float) -> CategoryModel:
    """The fit on all prompts, in the precision in which it ships."""
    made = fit(prompts.embeddings, prompts.categories, classes_count=len(CATEGORIES), penalty=penalty)
    return CategoryModel(
        weights=made.weights.astype(np.float16).astype(np.float32), biases=made.biases.astype(np.float32)
    )


def write_model(path: Path, model: CategoryModel) -> None:
    """The weights as a file that `deployments.encoder.categories` reads."""
    np.savez(
        path,
        categories=np.array(CATEGORIES),
        weights=model.weights.astype(np.float16),
        biases=model.biases,
    )


def classify_times(model: CategoryModel, prompts: Prompts) -> dict[str, Any]:
    """How long one prompt takes, its embedding given as signals have it."""
    embeddings = [tuple(row) for row in prompts.embeddings[:_TIMED_TEXTS].tolist()]
    times: list[float] = []
    for embedding in embeddings:
        began_s = time.perf_counter()
        classify(embedding, model, language="en")
        times.append(time.perf_counter() - began_s)
    p50_s, p99_s = np.quantile(times, (0.5, 0.99))
    return {"case": "classify", "p50_ms": float(p50_s) * 1e3, "p99_ms": float(p99_s) * 1e3}


def _as_text(rows: Sequence[dict[str, Any]]) -> str:
    lines: list[str] = []
    for row in rows:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float))
        lines.append(f"{row['case']:28}seed {row['seed']}  {figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
