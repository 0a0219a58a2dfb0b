"""What the signals of model routing cost, and how often the language is right.

    python -m load_tests.request_signals --json [--labelled FILE]

Cheap signals are everything but the sentence embedding: complexity, hints, language, category. They are timed
on prompts of 2 kB; with `--labelled`, JSON lines of `text` and `language`, the detector is judged as well.
"""

import argparse
import gzip
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.entities.model_routing import Goal
from cluster.policy.routing.models.categories import classify
from cluster.policy.routing.models.complexity import complexity_of
from cluster.policy.routing.models.signals import hints_of, model_signals
from deployments.encoder.categories import load_category_model
from deployments.encoder.language import UNKNOWN, LanguageDetector
from deployments.encoder.minilm import MiniLm
from load_tests.arguments import bounded
from load_tests.record import circumstances

_PROMPT_CHARS = 2048
_SENTENCE = "Why does the tide follow the moon and not the sun, when both pull on the sea? Give 3 examples; "
_HEADERS = {
    "content-type": "application/json",
    "user-agent": "client/1.0",
    "x-tidemill-hint-tier": "gold",
    "x-tidemill-hint-task": "explain",
}
_LENGTHS = ((1, 20), (20, 60), (60, 100_000))


def main(arguments: Sequence[str] | None = None) -> int:
    """Time every signal, and judge the language detector if there is something to judge it by."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.request_signals", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--requests", type=bounded(int, 100, 1_000_000), default=2000, help="timed per seed")
    parser.add_argument("--seeds", type=bounded(int, 1, 100), default=5)
    parser.add_argument("--labelled", type=Path, help="gzipped JSON lines with `text` and `language`")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)

    rows = [row for seed in range(given.seeds) for row in times(seed, given.requests)]
    if given.labelled is not None:
        rows += languages(given.labelled)
    result = {
        "benchmark": "request_signals",
        "command": " ".join(["python -m load_tests.request_signals", *(arguments or sys.argv[1:])]),
        **circumstances(None),
        "rows": rows,
    }
    print(json.dumps(result) if given.json else "\n".join(map(str, rows)))
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
    run(prompts[0])
    taken_s: list[float] = []
    for prompt in prompts:
        began_s = time.perf_counter()
        run(prompt)
        taken_s.append(time.perf_counter() - began_s)
    p50_s, p99_s = np.quantile(taken_s, (0.5, 0.99))
    return {"case": case, "p50_ms": float(p50_s) * 1e3, "p99_ms": float(p99_s) * 1e3}


def languages(file: Path) -> list[dict[str, Any]]:
    """By length of the text: how often a language is said, and how often that is right."""
    detector = LanguageDetector()
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
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


if __name__ == "__main__":
    sys.exit(main())
