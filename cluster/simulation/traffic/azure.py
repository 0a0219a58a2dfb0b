"""Azure's LLM inference traces: CSV with TIMESTAMP, ContextTokens, GeneratedTokens."""

import csv
from collections.abc import Iterable
from datetime import datetime

import numpy as np

from cluster.simulation.traffic.trace import Trace, TraceError, token_count, trace_of

HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read_azure(name: str, lines: Iterable[str], requests_max: int | None = None) -> Trace:
    """Read the CSV; time counts from the first request.

    Args:
        name: of the file, for messages.
        lines: of the file.
        requests_max: stop after so many.

    Raises:
        TraceError: a line does not have the format; the message names it.
    """
    rows = csv.DictReader(lines, skipinitialspace=True)
    rows.fieldnames = [field.strip() for field in rows.fieldnames or ()]
    missing = set(HEADER) - set(rows.fieldnames)
    if missing:
        raise TraceError(f"{name}:1: no column {', '.join(sorted(missing))}; expected {','.join(HEADER)}")
    at_s: list[float] = []
    prompts: list[int] = []
    answers: list[int] = []
    for row in rows:
        if requests_max is not None and len(at_s) >= requests_max:
            break
        try:
            at_s.append(_instant_s(row["TIMESTAMP"]))
            prompts.append(token_count(row["ContextTokens"], "ContextTokens"))
            answers.append(token_count(row["GeneratedTokens"], "GeneratedTokens"))
        except ValueError as error:
            raise TraceError(f"{name}:{rows.line_num}: {error}") from error
    if not at_s:
        raise TraceError(f"{name}: no request in it")
    arrival_s = np.array(at_s, dtype=np.float64)
    return trace_of(name, arrival_s - arrival_s.min(), np.array(prompts), np.array(answers))


def _instant_s(text: str) -> float:
    """Seconds; fractions have seven digits in Azure's files, one more than Python reads."""
    try:
        whole, _, fraction = text.strip().removesuffix("Z").removesuffix("+00:00").partition(".")
        return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")
    except (AttributeError, ValueError):
        raise ValueError(f"TIMESTAMP: {text!r} is no time like 2023-11-16 18:15:46.6805900") from None
