"""Reads the published tables; what each format holds and lacks is said at its reader."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from load_tests.model_tables.energy_per_token import (
    FROM_PRICE,
    SOURCE,
    answer_j,
    energy_from_price,
    size_in_name,
)
from load_tests.model_tables.table import ModelTable, Numbers, TableError
from load_tests.text_files import FileError, csv_rows, json_document, json_rows, number_of

MMLU_PRO_MODELS = (
    "Meta-Llama-3_1-70B-Instruct",
    "Meta-Llama-3_1-8B-Instruct",
    "Mistral-7B-Instruct-v0.2",
    "Mixtral-8x7B-Instruct-v0.1",
    "Phi-3-mini-4k-instruct",
    "Qwen1.5-72B-Chat",
    "Qwen1.5-7B-Chat",
    "Yi-6b-Chat",
)
"""The instruct models whose names state their size."""

_CHARS_PER_TOKEN = 4.0
_USD_PER_MTOK = {"small": 0.2, "8x7b": 0.6, "large": 0.9}
_SMALL_BELOW_B = 16.0
_LLMROUTER_OUTPUT_TOKENS = 200.0
_MIXTRAL_USD_PER_MTOK, _GPT4_USD_PER_MTOK = 0.24, 24.7
_LETTER_OUTPUT_TOKENS = 4.0
_LISTED_MODELS_FILE = "llmrouter_models.json"
_PROMPTS_MIN, _MODELS_MIN = 10, 2


def paretobandit(path: Path, _companions: Mapping[str, Path]) -> ModelTable:
    """ParetoBandit's rewards (arXiv 2604.00136): judged reward and real price of each answer.

    Sizes are unknown, so energy is assumed from the price.
    """
    lines = list(json_rows(path, ("prompt", "source", "arms")))
    models = tuple(lines[0][1]["arms"])
    quality, cost_usd = [], []
    for number, line in lines:
        where = f"{path}: line {number}"
        answers = [_entry(line["arms"], model, f"{where}: no answer of {model!r}") for model in models]
        quality.append(
            [
                _quality(
                    _entry(answer, "reward", f"{where}: no reward of {model!r}"),
                    f"{where}: reward of {model!r}",
                )
                for model, answer in zip(models, answers, strict=True)
            ]
        )
        cost_usd.append(
            [
                number_of(
                    _entry(answer, "cost", f"{where}: no cost of {model!r}"), f"{where}: cost of {model!r}"
                )
                for model, answer in zip(models, answers, strict=True)
            ]
        )
    prompts = tuple(str(line["prompt"]) for _, line in lines)
    return ModelTable(
        name=path.name,
        models=models,
        prompts=prompts,
        categories=tuple(str(line["source"]) for _, line in lines),
        prompt_tokens=_tokens(prompts),
        quality=np.array(quality),
        cost_usd=np.array(cost_usd),
        energy_j=energy_from_price(np.array(cost_usd)),
        energy_source=FROM_PRICE,
        cost_source="as published with the answers",
    )


def mmlu_pro(path: Path, companions: Mapping[str, Path]) -> ModelTable:
    """MMLU-Pro's published results: correct or not, and output tokens, of eight instruct models.

    A file that lacks one of the eight is read with all of its models whose names state their size. Prices
    are tiers by size ($ per million tokens, as listed by LLMRouter: 0.2 below 16 billion parameters, 0.6 for
    Mixtral 8x7B, 0.9 above).
    """
    needed = ("id", "category", "question", "prompt_tokens")
    questions = {str(line["id"]): line for _, line in json_rows(companions["questions"], needed)}
    correct, tokens = _csv_columns(path), _csv_columns(companions["tokens"])
    models = _measured_models(path, correct, tokens)
    ids, quality, output = [], [], []
    for row, values in correct.items():
        took = tokens.get(row, {})
        taken = [values.get(model) for model in models]
        lengths = [took.get(model) for model in models]
        if row in questions and all(taken) and all(lengths):
            ids.append(row)
            where = f"{path}: question {row}"
            quality.append([_quality(value, where) for value in taken])
            output.append([number_of(value, where) for value in lengths])
    if not ids:
        raise TableError(f"{path}: no question that all of {', '.join(models)} have answered")
    asked = companions["questions"]
    prompt_tokens = np.array(
        [
            number_of(questions[row]["prompt_tokens"], f"{asked}: prompt_tokens of question {row}")
            for row in ids
        ]
    )
    sizes = [size_in_name(model) for model in models]
    output_tokens = np.array(output)
    return ModelTable(
        name=path.name,
        models=models,
        prompts=tuple(str(questions[row]["question"]) for row in ids),
        categories=tuple(str(questions[row]["category"]) for row in ids),
        prompt_tokens=prompt_tokens,
        quality=np.array(quality),
        cost_usd=_priced([_tier(size) for size in sizes], prompt_tokens, output_tokens),
        energy_j=_energies(sizes, prompt_tokens, output_tokens),
        energy_source=SOURCE,
        cost_source="price tiers by size",
    )


def llmrouter(path: Path, companions: Mapping[str, Path]) -> ModelTable:
    """LLMRouter's scores, 0..1, of nine models on fourteen tasks.

    Lengths of answers are not published: every answer counts as 200 tokens, so that money and energy differ
    by model and prompt only. Prices and sizes are those of its list of models.
    """
    lines = list(json_rows(path, ("task", "query", "scores")))
    models = tuple(sorted(lines[0][1]["scores"]))
    listed = json_document(companions["models"])
    sizes, prices = [], []
    for model in models:
        where = f"{companions['models']}: {model!r}"
        entry = _entry(listed, model, f"{companions['models']}: lists no {model!r}")
        sizes.append(_listed_size(_entry(entry, "size", f"{where}: no size"), where))
        prices.append(
            number_of(_entry(entry, "output_price", f"{where}: no output_price"), f"{where}: output_price")
        )
    prompts = tuple(str(line["query"]) for _, line in lines)
    prompt_tokens = _tokens(prompts)
    output_tokens = np.full((len(prompts), len(models)), _LLMROUTER_OUTPUT_TOKENS)
    return ModelTable(
        name=path.name,
        models=models,
        prompts=prompts,
        categories=tuple(str(line["task"]) for _, line in lines),
        prompt_tokens=prompt_tokens,
        quality=np.array(
            [[_score(path, number, line["scores"], model) for model in models] for number, line in lines]
        ),
        cost_usd=_priced(prices, prompt_tokens, output_tokens),
        energy_j=_energies(sizes, prompt_tokens, output_tokens),
        energy_source=f"{SOURCE}; every answer counts as 200 tokens",
        cost_source="list prices; every answer counts as 200 tokens",
    )


def routellm(path: Path, _companions: Mapping[str, Path]) -> ModelTable:
    """RouteLLM's evaluations (arXiv 2406.18665): whether Mixtral 8x7B and GPT-4 answer correctly.

    Prices as in that paper, 24.7 and 0.24 $ per million tokens. The size of GPT-4 is unknown, so energy is
    assumed from the price. Answers on MMLU are single letters and count as four tokens.
    """
    lines = list(json_rows(path, ("category", "prompt", "mixtral", "gpt4")))
    prompts = tuple(str(line["prompt"]) for _, line in lines)
    prompt_tokens = _tokens(prompts)
    output_tokens = np.array(
        [
            [
                number_of(line[f"{model}_chars"], f"{path}: line {number}") / _CHARS_PER_TOKEN
                if line.get(f"{model}_chars") is not None
                else _LETTER_OUTPUT_TOKENS
                for model in ("mixtral", "gpt4")
            ]
            for number, line in lines
        ]
    )
    cost_usd = _priced([_MIXTRAL_USD_PER_MTOK, _GPT4_USD_PER_MTOK], prompt_tokens, output_tokens)
    return ModelTable(
        name=path.name,
        models=("mixtral-8x7b", "gpt-4"),
        prompts=prompts,
        categories=tuple(str(line["category"]) for _, line in lines),
        prompt_tokens=prompt_tokens,
        quality=np.array(
            [
                [_quality(line[model], f"{path}: line {number}: {model}") for model in ("mixtral", "gpt4")]
                for number, line in lines
            ]
        ),
        cost_usd=cost_usd,
        energy_j=energy_from_price(cost_usd),
        energy_source=FROM_PRICE,
        cost_source="24.7 and 0.24 $ per million tokens (RouteLLM); lengths estimated from characters",
    )


FORMATS: dict[str, Callable[[Path, Mapping[str, Path]], ModelTable]] = {
    "paretobandit": paretobandit,
    "mmlu_pro": mmlu_pro,
    "llmrouter": llmrouter,
    "routellm": routellm,
}


def read_table(path: Path, kind: str, companions: Mapping[str, Path | None]) -> ModelTable:
    """Read a table.

    Args:
        path: of the table.
        kind: of FORMATS.
        companions: `questions`, `tokens` (mmlu_pro) and `models` (llmrouter); those that are None are looked
            for beside the table, by the names they are published under.

    Raises:
        TableError: the file cannot be read, is not of this format, or holds nothing to compare.
    """
    guessed = {
        "questions": _sibling(path, "correct", "questions", (".jsonl.gz", ".jsonl")),
        "tokens": _sibling(path, "correct", "output_tokens", (".csv.gz", ".csv")),
        "models": path.with_name(_LISTED_MODELS_FILE),
    }
    files = {name: companions.get(name) or guess for name, guess in guessed.items()}
    try:
        table = FORMATS[kind](path, files)
    except FileError as error:
        raise TableError(str(error)) from error
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{path}: not a table of format {kind}: {error!r}") from error
    if len(table) < _PROMPTS_MIN or len(table.models) < _MODELS_MIN:
        raise TableError(
            f"{path}: holds {len(table)} prompts and {len(table.models)} models; "
            f"a comparison needs {_PROMPTS_MIN} and {_MODELS_MIN}"
        )
    if table.cost_usd.min() < 0 or table.cost_usd.max() <= 0:
        raise TableError(f"{path}: no answer costs anything, or one costs less than nothing")
    return table


def _sibling(path: Path, part: str, other: str, endings: tuple[str, ...]) -> Path:
    stem = path.name.split(".", maxsplit=1)[0].replace(part, other)
    found = [path.with_name(stem + ending) for ending in endings]
    return next((file for file in found if file.exists()), found[0])


def _entry(found: Any, key: str, lacking: str) -> Any:
    """What an object holds under a key; `lacking` is what to say of one that has it not."""
    if not isinstance(found, dict) or key not in found:
        raise TableError(lacking)
    return found[key]


def _quality(value: Any, where: str) -> float:
    quality = number_of(value, where)
    if not 0 <= quality <= 1:
        raise TableError(f"{where}: {quality:g} is no quality between 0 and 1")
    return quality


def _score(path: Path, number: int, scores: Any, model: str) -> float:
    where = f"{path}: line {number}"
    return _quality(_entry(scores, model, f"{where}: no score of {model!r}"), f"{where}: score of {model!r}")


def _listed_size(size: Any, where: str) -> str:
    try:
        return size_in_name(str(size))
    except TableError as error:
        raise TableError(f"{where}: {size!r} is no size") from error


def _measured_models(path: Path, *columns: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The eight, or those models of all files whose names state a size."""
    there = [next(iter(rows.values())) for rows in columns]
    known = [name for name in there[0] if name and all(name in row for row in there[1:])]
    if all(model in known for model in MMLU_PRO_MODELS):
        return MMLU_PRO_MODELS
    sized = tuple(name for name in known if _states_size(name))
    if len(sized) < _MODELS_MIN:
        raise TableError(f"{path}: of its columns {', '.join(known[:8])}, fewer than two name a model's size")
    return sized


def _states_size(model: str) -> bool:
    try:
        size_in_name(model)
    except TableError:
        return False
    return True


def _csv_columns(path: Path) -> dict[str, dict[str, str]]:
    return {row["question_id"]: row for _, row in csv_rows(path, ("question_id",))}


def _tokens(texts: tuple[str, ...]) -> Numbers:
    return np.array([len(text) / _CHARS_PER_TOKEN for text in texts])


def _tier(size: str) -> float:
    if size in _USD_PER_MTOK:
        return _USD_PER_MTOK[size]
    return _USD_PER_MTOK["small" if float(size.removesuffix("b")) < _SMALL_BELOW_B else "large"]


def _priced(usd_per_mtok: list[float], prompt_tokens: Numbers, output_tokens: Numbers) -> Numbers:
    return np.asarray((output_tokens + prompt_tokens[:, None]) * np.array(usd_per_mtok) / 1e6)


def _energies(sizes: list[str], prompt_tokens: Numbers, output_tokens: Numbers) -> Numbers:
    columns = [answer_j(size, prompt_tokens, output_tokens[:, at]) for at, size in enumerate(sizes)]
    return np.stack(columns, axis=1)
