"""Measure W, H and P(b) of a transformer on this machine's GPU.

    python -m operators.telemetry.characterise --out gpu.json

Takes about three minutes and the whole GPU. Idle power without and with a model, decode steps over batches
and contexts, prompts, what the card reaches at best, and the energy counter against integrated power, all
read with the meters that serve the fleet. The model is Llama-3.1-8B's shape with random weights in plain
torch; needs torch, numpy, scipy and NVML's binding, no checkpoint and no network. The file is written after
every case. `operators.telemetry.gpu_comparison` sets it beside what the catalogue predicts.

`--tiny` tries the program on a CPU, in seconds; its figures mean nothing.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from operators.telemetry.gpu_fits import DecodePoint, fitted
from operators.telemetry.gpu_load import TINY, Decoder, Shape, as_graph
from operators.telemetry.gpu_windows import GpuMeters, GpuTimer, alternating, busy, idle

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXT_TOKENS = 1024
_OTHER_BATCHES = (32, 64)
_OTHER_CONTEXTS = (256, 4096, 8192)
_PROMPTS = (512, 2048, 8192)
_RESERVE_BYTES = 4e9
"""For activations, CUDA's context and graphs."""
_COPY_BYTES = 4 << 30
_MATRIX = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how large: NVML's power readings are means over a second."""

    shape: Shape
    device: str
    settle_s: float = 1.2
    window_s: float = 2.5
    idle_settle_s: float = 4.0
    idle_window_s: float = 5.0
    decay_windows: int = 6
    copy_bytes: int = _COPY_BYTES
    matrix: int = _MATRIX
    divisor: int = 1
    """Of contexts and prompts."""

    def decode_cases(self) -> list[tuple[int, int]]:
        """Batches and contexts."""
        cases = [(batch, _CONTEXT_TOKENS) for batch in _BATCHES]
        cases += [(batch, context) for batch in _OTHER_BATCHES for context in _OTHER_CONTEXTS]
        return [(batch, context // self.divisor) for batch, context in cases]

    def prompts(self) -> list[int]:
        """Lengths."""
        return [tokens // self.divisor for tokens in _PROMPTS]


_TRIAL = Plan(
    shape=TINY,
    device="cpu",
    settle_s=0.0,
    window_s=0.02,
    idle_settle_s=0.0,
    idle_window_s=0.1,
    decay_windows=1,
    copy_bytes=1 << 20,
    matrix=64,
    divisor=64,
)


class Record:
    """The result as it grows, on disk after every case."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        """Begin.

        Args:
            path: the file.
            facts: what does not change any more.
        """
        self._path = path
        self.result: dict[str, Any] = {**facts, "idle": [], "decode": [], "prefill": [], "skipped": []}

    def add(self, kind: str, case: dict[str, Any]) -> None:
        """One more case."""
        self.result.setdefault(kind, []).append(case)
        print(kind, json.dumps(case, default=str), file=sys.stderr, flush=True)
        self.save()

    def put(self, name: str, value: Any) -> None:
        """One more fact."""
        self.result[name] = value
        print(name, json.dumps(value, default=str), file=sys.stderr, flush=True)
        self.save()

    def save(self) -> None:
        """Write all of it."""
        self._path.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(
        prog="python -m operators.telemetry.characterise", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--gpu", type=int, default=0, help="NVML's number of the GPU (default 0)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU, to try the program")
    given = parser.parse_args(arguments)
    plan = _TRIAL if given.tiny else Plan(shape=Shape(), device="cuda")
    meters = GpuMeters(given.gpu)
    if meters.uuid is None and not given.tiny:
        print(f"no GPU {given.gpu} can be read through NVML: {meters.errors}", file=sys.stderr)
        return 1
    if meters.uuid is not None and meters.count > 1:
        # Before torch looks: it must work on the GPU that is metered.
        os.environ["CUDA_VISIBLE_DEVICES"] = meters.uuid
    record = Record(
        given.out,
        {
            "benchmark": "gpu_characterisation",
            "command": f"python -m operators.telemetry.characterise --out {given.out.name}"
            + (" --tiny" if given.tiny else ""),
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "gpu": meters.facts(),
            "python": platform.python_version(),
        },
    )
    try:
        return characterise(plan, meters, record)
    finally:
        meters.close()


def characterise(plan: Plan, meters: GpuMeters, record: Record) -> int:
    """All cases, then the fits.

    Args:
        plan: sizes and times.
        meters: of the GPU that is used.
        record: where it goes.
    """
    record.add("idle", {"state": "empty", **_rest(plan, meters)})
    import torch  # noqa: PLC0415 - takes seconds, is not everywhere, and the GPU above was to be empty

    if plan.device == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no GPU", file=sys.stderr)
        return 1
    record.put("torch", {"version": torch.__version__, "cuda": torch.version.cuda})
    timer = GpuTimer(torch)
    torch.zeros(1, device=plan.device)
    record.add("idle", {"state": "cuda context", **_rest(plan, meters)})
    with torch.inference_mode():
        for name, work in _ceilings(torch, plan):
            record.add("ceilings", {"what": name, **_work(plan, meters, timer, work)})
        decoder = Decoder(torch, plan.shape, plan.device, _kv_tokens(torch, plan))
        record.put("model", {**asdict(plan.shape), "parameters": plan.shape.parameters, "weights": "bf16"})
        record.add("idle", {"state": "model loaded", **_rest(plan, meters)})
        _decode(torch, plan, meters, timer, (decoder, record))
        _prefill(torch, plan, meters, timer, (decoder, record))
        step = as_graph(torch, decoder.decode_step(32, _CONTEXT_TOKENS // plan.divisor))
        for phase_s in (0.25, 0.5):
            # A whole number of turns in either.
            times = (0.4 * plan.idle_window_s, 1.6 * plan.idle_window_s)
            record.add("alternating", alternating(meters, timer, step, phase_s=phase_s, times=times))
        for number in range(plan.decay_windows):
            window = idle(meters, settle_s=0.0, window_s=plan.window_s)
            record.add("idle", {"state": "after work", "window": number, **window})
    _fit(record)
    return 0


def _decode(
    torch: Any, plan: Plan, meters: GpuMeters, timer: GpuTimer, whole: tuple[Decoder, Record]
) -> None:
    decoder, record = whole
    for batch, context in plan.decode_cases():
        case = {"sequences": batch, "context_tokens": context}
        if batch * context > decoder.kv_tokens:
            record.add("skipped", {**case, "why": f"the KV cache holds {decoder.kv_tokens} tokens"})
            continue
        step = as_graph(torch, decoder.decode_step(batch, context))
        record.add("decode", {**case, **_work(plan, meters, timer, step)})
        del step
        _free(torch)


def _prefill(
    torch: Any, plan: Plan, meters: GpuMeters, timer: GpuTimer, whole: tuple[Decoder, Record]
) -> None:
    decoder, record = whole
    for tokens in plan.prompts():
        step = as_graph(torch, decoder.prompt_step(tokens))
        found = _work(plan, meters, timer, step)
        record.add("prefill", {"prompt_tokens": tokens, "token_s": found["step_s"] / tokens, **found})
        del step
        _free(torch)


def _ceilings(torch: Any, plan: Plan) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What the card reaches at best: bytes moved and bf16 products, on random bits."""
    source = torch.empty(plan.copy_bytes // 2, device=plan.device, dtype=torch.bfloat16).normal_()
    copy = partial(torch.empty_like(source).copy_, source)
    yield f"copy of {plan.copy_bytes} bytes (read and written)", copy
    del source, copy
    _free(torch)
    square = torch.empty(plan.matrix, plan.matrix, device=plan.device, dtype=torch.bfloat16).normal_()
    product = partial(torch.mm, square, square, out=torch.empty_like(square))
    yield f"bf16 product of {plan.matrix} x {plan.matrix} matrices", product


def _work(plan: Plan, meters: GpuMeters, timer: GpuTimer, step: Callable[[], Any]) -> dict[str, Any]:
    return busy(meters, timer, step, settle_s=plan.settle_s, window_s=plan.window_s)


def _rest(plan: Plan, meters: GpuMeters) -> dict[str, Any]:
    return idle(meters, settle_s=plan.idle_settle_s, window_s=plan.idle_window_s)


def _kv_tokens(torch: Any, plan: Plan) -> int:
    """The cache of the largest case that fits beside the weights."""
    largest = [batch * context for batch, context in plan.decode_cases()]
    if plan.device != "cuda":
        return max(largest)
    free_bytes, _ = torch.cuda.mem_get_info()
    room = (free_bytes - 2 * plan.shape.parameters - _RESERVE_BYTES) / plan.shape.kv_token_bytes
    return max((tokens for tokens in largest if tokens <= room), default=0)


def _free(torch: Any) -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _fit(record: Record) -> None:
    loaded = [case["power_w"] for case in record.result["idle"] if case["state"] == "model loaded"]
    points = [
        DecodePoint(
            sequences=case["sequences"],
            context_tokens=case["context_tokens"],
            step_s=case["step_s"],
            power_w=case["power_w"],
        )
        for case in record.result["decode"]
        if case["power_w"] is not None
    ]
    if len(points) < 3 or loaded[0] is None:
        print("too few metered points to fit", file=sys.stderr)
        return
    limit_w = record.result["gpu"].get("power_limit_w")
    record.put("fits", fitted(points, loaded[0], limit_w))


if __name__ == "__main__":
    sys.exit(main())
