"""Fit the performance model's efficiencies on measured operating points, and say how far it errs.

    python -m load_tests.performance_fit --measured measured_llm_power.csv --json

The file holds one operating point a line: `source`, `task`, `gpu`, `model`, `num_gpus`, `avg_batch`,
`tpot_or_median_itl_ms`, `avg_out` (output tokens of a request) and `w_per_gpu`. Only dense models of the
catalogue and lines of ML.ENERGY's leaderboard v3 are used. Rows are named by policy: `fit` on all models of a
GPU type, `leave_one_out` on all but the one that is predicted, `shipped` the constants of
`cluster.performance.roofline` as they are. The context of a point is not in the file. It is taken as the
prompt and half the output; the prompt's length is an assumption (`--prompt-tokens`).
"""

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.performance.architectures import ModelSpec, model_spec
from cluster.performance.hardware import GpuSpec, gpu_spec
from cluster.performance.power import decode_w
from cluster.performance.roofline import EFFICIENCIES, Efficiency, decode_step_s, power_curve
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, print_json
from load_tests.record import circumstances
from load_tests.text_files import FileError, opened

_SOURCE = "(v3)"
_MODELS = {
    "Qwen/Qwen3-8B": "qwen3-8b",
    "Qwen/Qwen3-14B": "qwen3-14b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "google/gemma-3-12b-it": "gemma-3-12b",
    "google/gemma-3-27b-it": "gemma-3-27b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "meta-llama/Llama-3.3-70B-Instruct": "llama-3.3-70b",
}
_SPEED = {
    "bandwidth": (0.3, 0.95),
    "layer_s": (0.0, 2e-4),
    "sequence_s": (0.0, 2e-4),
    "decode_flops": (0.2, 0.95),
}
_POWER = {
    "power_range": (0.1, 1.0),
    "power_steepness": (0.05, 5.0),
    "power_midpoint": (-5.0, 12.0),
    "power_midpoint_per_log2_gpus": (0.0, 2.0),
}
"""Parameters of `Efficiency` and their bounds. Idle power is measured; the range ends at the power limit."""
_STEP_OUTLIER_RATIO = 0.02
"""Errors well above it count linearly: steps that a host held up must not bend the fit for all."""
_POWER_OUTLIER_RATIO = 10.0
"""Power knows no such outliers: least squares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured operating point."""

    gpu: GpuSpec
    model: ModelSpec
    gpus: int
    sequences: float
    context_tokens: float
    """Of each sequence."""
    itl_s: float
    gpu_w: float
    """Of one GPU."""

    def itl_error(self, fit: Efficiency) -> float:
        """Logarithm of predicted over measured."""
        step_s = decode_step_s(self.gpu, self.model, self.gpus, self.sequences, self.context_tokens, fit)
        return float(np.log(step_s / self.itl_s))

    def power_error(self, fit: Efficiency) -> float:
        """Logarithm of predicted over measured."""
        watts = decode_w(power_curve(self.gpu, self.gpus, fit), self.sequences)
        return float(np.log(watts / (self.gpus * self.gpu_w)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and score."""
    parser = Parser(prog="python -m load_tests.performance_fit", description=__doc__.split("\n")[0])
    parser.add_argument("--measured", type=Path, required=True, help="CSV of operating points")
    parser.add_argument(
        "--prompt-tokens", type=bounded(float, 0, 1e5), default=300.0, help="assumed of every request"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)
    try:
        with opened(given.measured) as lines:
            points = read(lines, prompt_tokens=given.prompt_tokens)
    except FileError as error:
        parser.error(str(error))
    except KeyError as error:
        parser.error(f"{given.measured}: no column {error}")
    except (TypeError, ValueError) as error:
        parser.error(f"{given.measured}: {error}")
    if not points:
        parser.error(f"{given.measured}: no operating point of {', '.join(_MODELS)}")
    rows = [row for name in EFFICIENCIES for row in _rows(name, [p for p in points if p.gpu.name == name])]
    for row in rows:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, file=sys.stderr)
    if given.json:
        # The file's name, not where it lies: results are compared across machines.
        command = (
            f"python -m load_tests.performance_fit --measured {given.measured.name} "
            f"--prompt-tokens {given.prompt_tokens:g} --json"
        )
        print_json({"benchmark": "performance_fit", "command": command, **circumstances(None), "rows": rows})
    return 0


def read(lines: Any, *, prompt_tokens: float) -> list[Point]:
    """Operating points of the models that are fitted.

    Args:
        lines: of the CSV file.
        prompt_tokens: assumed of every request.

    Raises:
        KeyError: a column is missing.
        ValueError: a number is none.
    """
    points = []
    for row in csv.DictReader(lines):
        gpu, model = gpu_spec(row["gpu"]), model_spec(_MODELS.get(row["model"], ""))
        if gpu is None or model is None or not row["source"].endswith(_SOURCE):
            continue
        points.append(
            Point(
                gpu=gpu,
                model=model,
                gpus=int(row["num_gpus"]),
                sequences=float(row["avg_batch"]),
                context_tokens=prompt_tokens + float(row["avg_out"]) / 2.0,
                itl_s=float(row["tpot_or_median_itl_ms"]) / 1000.0,
                gpu_w=float(row["w_per_gpu"]),
            )
        )
    return points


def fit(points: Sequence[Point], begin: Efficiency) -> Efficiency:
    """The efficiencies that err least, first of speed and then of power.

    Args:
        points: of one GPU type.
        begin: idle share, and where to begin.
    """
    power = {**_POWER, "power_range": (0.1, 1.0 - begin.idle_share)}
    if all(p.gpus == points[0].gpus for p in points):
        del power["power_midpoint_per_log2_gpus"]  # nothing tells it from the midpoint
    found = _least(begin, _SPEED, lambda tried: [p.itl_error(tried) for p in points], _STEP_OUTLIER_RATIO)
    return _least(found, power, lambda tried: [p.power_error(tried) for p in points], _POWER_OUTLIER_RATIO)


def _least(
    begin: Efficiency,
    bounds: dict[str, tuple[float, float]],
    errors: Callable[[Efficiency], list[float]],
    outlier_ratio: float,
) -> Efficiency:
    from scipy.optimize import least_squares  # noqa: PLC0415 - `--help` need not wait for it

    low = np.array([low for low, _ in bounds.values()])
    width = np.array([high for _, high in bounds.values()]) - low

    def tried(shares: Any) -> Efficiency:
        values = (low + shares * width).tolist()
        return replace(begin, **dict(zip(bounds, values, strict=True)))

    # All parameters on one scale, as places between their bounds.
    found = [
        least_squares(
            lambda shares: errors(tried(shares)),
            x0=np.full(len(bounds), place),
            bounds=(0.0, 1.0),
            loss="soft_l1",
            f_scale=outlier_ratio,
        )
        for place in (0.25, 0.5, 0.75)
    ]
    return tried(min(found, key=lambda result: float(result.cost)).x)


def _rows(name: str, points: list[Point]) -> list[dict[str, Any]]:
    if not points:
        return []
    shipped = EFFICIENCIES[name]
    models = sorted({p.model.name for p in points})
    whole = fit(points, shipped)
    print(f"{name}: {len(points)} points of {len(models)} models: {whole}", file=sys.stderr)
    left_out: dict[str, Efficiency] = {}
    if len(models) > 1:
        left_out = {m: fit([p for p in points if p.model.name != m], shipped) for m in models}
    rows: list[dict[str, Any]] = []
    for policy, chosen in (
        ("fit", dict.fromkeys(models, whole)),
        ("leave_one_out", left_out),
        ("shipped", dict.fromkeys(models, shipped)),
    ):
        for model in (*models, "all") if chosen else ():
            meant = [p for p in points if model in {p.model.name, "all"}]
            rows.append(
                {
                    "case": name,
                    "policy": policy,
                    "seed": 0,
                    "model": model,
                    "points": len(meant),
                    "itl_error_ratio": _mean(p.itl_error(chosen[p.model.name]) for p in meant),
                    "power_error_ratio": _mean(p.power_error(chosen[p.model.name]) for p in meant),
                }
            )
    return rows


def _mean(logarithms: Any) -> float:
    """Mean of |predicted/measured - 1|."""
    return float(np.mean([abs(np.expm1(value)) for value in logarithms]))


if __name__ == "__main__":
    exit_with(main)
