"""What the signals of model routing cost, and what language and complexity are worth.

    python -m load_tests.request_signals --json [--labelled FILE] [--failures FILE …]

Cheap signals are everything but the sentence embedding: complexity, hints, language, category. They are timed
on prompts of 2 kB. `--labelled` judges the language detector; `--failures` holds complexity, and Flesch's
reading ease, against how often models failed at prompts. Formats: load_tests/data.md.
"""

import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from cluster.entities.model_routing import Goal
from cluster.policy.routing.models.categories import classify
from cluster.policy.routing.models.complexity import complexity_of
from cluster.policy.routing.models.signals import hints_of, model_signals
from deployments.encoder.categories import load_category_model
from deployments.encoder.language import UNKNOWN, LanguageDetector
from deployments.encoder.minilm import MiniLm
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.record import circumstances
from load_tests.text_files import FileError, json_rows, number_of

_PROMPT_CHARS = 2048
_SENTENCE = "Why does the tide follow the moon and not the sun, when both pull on the sea? Give 3 examples; "
_HEADERS = {
    "content-type": "application/json",
    "user-agent": "client/1.0",
    "x-tidemill-hint-tier": "gold",
    "x-tidemill-hint-task": "explain",
}
_WORD = re.compile(r"[A-Za-z']+")
_VOWELS = re.compile(r"[aeiouyAEIOUY]+")
_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)")
_LENGTHS = ((1, 20), (20, 60), (60, 100_000))


def main(arguments: Sequence[str] | None = None) -> int:
    """Time every signal, and judge the language detector if there is something to judge it by."""
    parser = Parser(prog="python -m load_tests.request_signals", description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=bounded(int, 100, 1_000_000), default=2000, help="timed per seed")
    parser.add_argument("--seeds", type=bounded(int, 1, 100), default=5)
    parser.add_argument("--labelled", type=Path, help="JSON lines with `text` and `language`")
    parser.add_argument(
        "--failures", type=Path, nargs="+", default=[], help="JSON lines with `text` and `failure`"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)

    try:
        judged = [] if given.labelled is None else languages(given.labelled)
        judged += [row for file in given.failures for row in ranks(file)]
    except FileError as error:
        parser.error(str(error))
    rows = [row for seed in range(given.seeds) for row in times(seed, given.requests)] + judged
    result = {
        "benchmark": "request_signals",
        "command": spelled("request_signals", arguments),
        **circumstances(None),
        "rows": rows,
    }
    if given.json:
        print_json(result)
    else:
        print("\n".join(map(str, rows)))
    return 0


def times(seed: int, requests: int) -> list[dict[str, Any]]:
    """Median and 99th percentile of each signal, and of all cheap ones together, over different prompts."""
    chance = random.Random(seed)
    detector, categories, encoder = LanguageDetector(), load_category_model(), MiniLm(threads=1)
    words = _SENTENCE.split() * (_PROMPT_CHARS // len(_SENTENCE) + 1)
    prompts = [" ".join(chance.sample(words, len(words)))[:_PROMPT_CHARS] for _ in range(requests)]
    embedding = tuple(encoder.encode(prompts[:1]).vectors[0].tolist())

    def cheap(text: str) -> None:
        model_signals(
            goal=Goal.BALANCED,
            tenant="t",
            user_text=text,
            turns=1,
            tools=False,
            prompt_tokens=512,
            headers=_HEADERS,
            language=detector.language_of(text),
            embedding=embedding,
            category=classify(embedding, categories, language="en"),
        )

    cases: dict[str, Callable[[str], object]] = {
        "complexity": complexity_of,
        "hints": lambda _: hints_of(_HEADERS),
        "language": detector.language_of,
        "category": lambda _: classify(embedding, categories, language="en"),
        "all_cheap": cheap,
    }
    rows = [_timed(case, run, prompts) for case, run in cases.items()]
    rows.append(_timed("embedding", lambda text: encoder.encode([text]), prompts[: requests // 50]))
    return [{"policy": "signals", "seed": seed, **row} for row in rows]


def _timed(case: str, run: Callable[[str], object], prompts: Sequence[str]) -> dict[str, Any]:
    """Wall time, and processor time, in which a busy machine does not show."""
    run(prompts[0])
    taken_s: list[float] = []
    worked_s: list[float] = []
    for prompt in prompts:
        began_s, began_work_s = time.perf_counter(), time.thread_time()
        run(prompt)
        worked_s.append(time.thread_time() - began_work_s)
        taken_s.append(time.perf_counter() - began_s)
    p50_s, p99_s = np.quantile(taken_s, (0.5, 0.99))
    work_p50_s, work_p99_s = np.quantile(worked_s, (0.5, 0.99))
    return {
        "case": case,
        "p50_ms": float(p50_s) * 1e3,
        "p99_ms": float(p99_s) * 1e3,
        "cpu_p50_ms": float(work_p50_s) * 1e3,
        "cpu_p99_ms": float(work_p99_s) * 1e3,
    }


def ranks(file: Path) -> list[dict[str, Any]]:
    """Spearman's correlation of two measures of complexity with how often models fail."""
    texts = _rows(file, "failure")
    failures = [number_of(row["failure"], f"{file}: failure") for row in texts]
    measures: dict[str, Callable[[str], float]] = {
        "complexity": complexity_of,
        "flesch": lambda text: 100 - reading_ease(text),
    }
    return [
        {
            "case": f"failures:{file.name}",
            "policy": name,
            "seed": 0,
            "texts": len(texts),
            "rank_correlation": float(spearmanr([measure(row["text"]) for row in texts], failures).statistic),
        }
        for name, measure in measures.items()
    ]


def reading_ease(text: str) -> float:
    """Flesch's reading ease of an English text; a syllable is a run of vowels."""
    words = _WORD.findall(text)
    sentences = max(1, len(_SENTENCE_END.findall(text)))
    if not words:
        return 100.0
    syllables = sum(max(1, len(_VOWELS.findall(word))) for word in words)
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)


def languages(file: Path) -> list[dict[str, Any]]:
    """By length of the text: how often a language is said, and how often that is right."""
    detector = LanguageDetector()
    texts = _rows(file, "language")
    rows: list[dict[str, Any]] = []
    for least, most in _LENGTHS:
        some = [row for row in texts if least <= len(row["text"]) < most]
        if not some:
            continue
        found = [(row["language"], detector.language_of(row["text"])) for row in some]
        said = [wanted == got for wanted, got in found if got != UNKNOWN]
        rows.append(
            {
                "case": f"language of {least} to {most - 1} characters",
                "policy": "py3langid",
                "seed": 0,
                "texts": len(some),
                "said_share": len(said) / len(some),
                "said_accuracy": sum(said) / max(1, len(said)),
            }
        )
    return rows


def _rows(file: Path, key: str) -> list[dict[str, Any]]:
    return [row for _, row in json_rows(file, ("text", key))]


if __name__ == "__main__":
    exit_with(main)
