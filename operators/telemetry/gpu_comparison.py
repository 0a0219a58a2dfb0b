"""Set a measured GPU beside what the catalogue predicts for it, as a Markdown table.

    python -m operators.telemetry.gpu_comparison load_tests/results/gpu_characterisation_h100.json --gpu H100

Positive errors: the prediction is higher than what was measured. Measured steps are plain torch's in CUDA
graphs, predicted ones an engine's, with its scheduling and sampling.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.entities.performance import ReplicaPerformance
from cluster.performance.architectures import model_spec
from cluster.performance.hardware import gpu_spec
from cluster.performance.latency import step_s
from cluster.performance.power import decode_w
from cluster.performance.roofline import derived


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m operators.telemetry.gpu_comparison", description=__doc__.split("\n")[0]
    )
    parser.add_argument("file", type=Path, help="written by operators.telemetry.characterise")
    parser.add_argument("--gpu", required=True, help="its type in the catalogue, such as H100")
    given = parser.parse_args(arguments)
    result = json.loads(given.file.read_text(encoding="utf-8"))
    gpu, model = gpu_spec(given.gpu), model_spec(result["model"]["name"])
    if gpu is None or model is None:
        parser.error(f"{given.gpu} or {result['model']['name']} is not in the catalogue")
    print("| what | measured | predicted | error |\n|---|---|---|---|")
    for what, unit, measured, predicted in compared(result, derived(gpu, model, 1)):
        error = predicted / measured - 1.0
        print(f"| {what} | {measured:.4g} {unit} | {predicted:.4g} {unit} | {error:+.0%} |")
    return 0


def compared(result: dict[str, Any], performance: ReplicaPerformance) -> list[tuple[str, str, float, float]]:
    """What, unit, measured, predicted.

    Args:
        result: what `characterise` wrote.
        performance: what the catalogue says of one such GPU.
    """
    loaded = [case["power_w"] for case in result["idle"] if case["state"] == "model loaded"]
    rows = [("idle with a model", "W", loaded[0], performance.power.idle_w)] if loaded else []
    for case in result["decode"]:
        batch, context = case["sequences"], case["context_tokens"]
        predicted_s = step_s(performance, sequences=batch, context_tokens=batch * context, prefill_tokens=0)
        what = f"decode, batch {batch}, context {context:,}"
        rows.append((f"{what}: step", "ms", 1e3 * case["step_s"], 1e3 * predicted_s))
        rows.append((f"{what}: power", "W", case["power_w"], decode_w(performance.power, batch)))
    for case in result["prefill"]:
        what = f"prompt of {case['prompt_tokens']:,} tokens"
        rows.append((f"{what}: a token", "µs", 1e6 * case["token_s"], 1e6 * performance.prefill_token_s))
        rows.append((f"{what}: power", "W", case["power_w"], performance.power.prefill_w))
    return rows


if __name__ == "__main__":
    sys.exit(main())
