"""How good the two models of `configs/two-models.yaml` are, and how fast `auto` learns which of them is.

Against a running cluster: both models are asked the same questions by name, sums that the specialist was not
trained on and simple facts; then `auto` is asked others, and told after each answer whether it was right.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from deployments.engine.recipes import Question, arithmetic_questions, is_right
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.record import circumstances

FACTS = (
    ("What is the capital of France?", "paris"),
    ("What is the capital of Italy?", "rome"),
    ("What is the capital of Japan?", "tokyo"),
    ("What is the capital of Germany?", "berlin"),
    ("What is the capital of Spain?", "madrid"),
    ("What is the capital of England?", "london"),
    ("Which planet do we live on?", "earth"),
    ("What colour is the sky on a clear day?", "blue"),
    ("What is frozen water called?", "ice"),
    ("Which animal barks?", "dog"),
    ("What do bees make?", "honey"),
    ("Which star is closest to the Earth?", "sun"),
    ("What is the opposite of hot?", "cold"),
    ("What is the opposite of up?", "down"),
    ("Which language is spoken in France?", "french"),
    ("What do plants need to grow?", "water"),
    ("What is the capital of Egypt?", "cairo"),
    ("What is the capital of Russia?", "moscow"),
    ("What is the capital of Greece?", "athens"),
    ("What is the capital of China?", "beijing"),
)
"""Questions, and a word that right answers have."""
_TIMEOUT_S = 120.0
_PARTS = 4
"""Of the questions that `auto` is asked, for a curve."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer."""

    kind: str
    model: str
    right: bool
    tokens: int
    decision_id: str


def questions(seed: int, count: int) -> Iterator[tuple[str, Question | tuple[str, str]]]:
    """Sums and facts in turn, `count` of each."""
    sums = itertools.islice(arithmetic_questions(seed, held_out=True), count)
    for asked, fact in zip(sums, itertools.cycle(FACTS), strict=False):
        yield "sums", asked
        yield "facts", fact


def ask(
    http: httpx.Client, model: str, kind: str, question: Question | tuple[str, str], *, max_tokens: int
) -> Answered:
    """Ask one question and see whether the answer is right."""
    text = question.text if isinstance(question, Question) else question[0]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    answer = http.post("/chat/completions", json=body, headers={"x-tidemill-cache": "off"})
    answer.raise_for_status()
    content: dict[str, Any] = answer.json()
    said: str = content["choices"][0]["message"]["content"] or ""
    right = is_right(question, said) if isinstance(question, Question) else question[1] in said.lower()
    headers = answer.headers
    return Answered(
        kind=kind,
        model=headers["x-tidemill-model"],
        right=right,
        tokens=content["usage"]["completion_tokens"],
        decision_id=headers["x-tidemill-decision-id"],
    )


def tell(http: httpx.Client, answered: Answered) -> None:
    """Tell the router whether an answer was right."""
    body = {"decision_id": answered.decision_id, "reward": float(answered.right)}
    http.post("/feedback", json=body).raise_for_status()


def row(case: str, policy: str, seed: int, answers: list[Answered], **more: float) -> dict[str, Any]:
    """One line of the result."""
    return {
        "case": case,
        "policy": policy,
        "seed": seed,
        "requests": len(answers),
        "right_ratio": sum(a.right for a in answers) / len(answers),
        "output_tokens_mean": sum(a.tokens for a in answers) / len(answers),
        **more,
    }


def rows(http: httpx.Client, models: list[str], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Both models by name, then `auto` while it learns."""
    for model in models:
        given = [
            ask(http, model, kind, question, max_tokens=options.max_tokens)
            for kind, question in questions(options.seed, options.questions)
        ]
        for kind in ("sums", "facts"):
            yield row(kind, model, options.seed, [a for a in given if a.kind == kind])
    learning = list(questions(options.seed + 1, options.questions))
    size = -(-len(learning) // _PARTS)
    for part in range(_PARTS):
        given = []
        for kind, question in learning[part * size : (part + 1) * size]:
            given.append(ask(http, "auto", kind, question, max_tokens=options.max_tokens))
            tell(http, given[-1])
        print(f"auto: part {part + 1} of {_PARTS}", file=sys.stderr)
        for kind in ("sums", "facts"):
            own = [a for a in given if a.kind == kind]
            shares = {f"to_{model}_ratio": sum(a.model == model for a in own) / len(own) for model in models}
            yield row(f"{kind}, part {part + 1}", "auto", options.seed, own, **shares)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m load_tests.two_models",
        description="Accuracy of two models, and how fast `auto` learns it.",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="of the gateway")
    parser.add_argument(
        "--models",
        nargs=2,
        default=["smollm2-135m-instruct", "smollm2-135m-sums"],
        help="names, the one that `auto` leads to first",
    )
    parser.add_argument("--questions", type=bounded(int, 4, 1000), default=100, help="of each kind")
    parser.add_argument("--max-tokens", type=bounded(int, 1, 1000), default=24, help="of an answer")
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run it and print the rows."""
    options = _options(arguments)
    began_at_s = time.monotonic()
    try:
        with httpx.Client(base_url=options.url, timeout=_TIMEOUT_S) as http:
            found = list(rows(http, options.models, options))
    except httpx.HTTPStatusError as error:
        sys.exit(
            f"two_models: {error.request.url} answered {error.response.status_code}: {error.response.text}"
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        sys.exit(f"two_models: {options.url}: {error}")
    if not options.json:
        for line in found:
            print(", ".join(f"{name} {value}" for name, value in line.items()))
        return
    result = {
        "benchmark": "two_models",
        "command": spelled("two_models", arguments),
        **circumstances(None),
        "wall_s": round(time.monotonic() - began_at_s, 1),
        "rows": found,
    }
    print_json(result)


if __name__ == "__main__":
    exit_with(main)
