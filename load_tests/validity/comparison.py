"""The same requests on the real engine and on the simulated one."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config import TidemillConfig, parse_config
from cluster.entities.performance import ReplicaPerformance
from cluster.performance.profiles import pool_performance
from cluster.simulation.run import Simulation
from cluster.simulation.scenario import Scenario
from cluster.simulation.traffic.open import open_trace
from cluster.simulation.traffic.synthetic import LengthShape, steady
from cluster.simulation.traffic.trace import Trace, trace_of
from load_tests.validity.calibration import StepTimes, open_samples
from load_tests.validity.engine import (
    BATCH_TOKENS_MAX,
    KV_BLOCK_TOKENS,
    KV_TOKENS_MAX,
    SEQUENCES_MAX,
    Answer,
    Engine,
)

PROMPT_TOKENS_MAX = 400
"""Longer prompts would take attention that grows with the square of their length, which the model lacks."""
OUTPUT_TOKENS_MIN, OUTPUT_TOKENS_MAX = 4, 64
_LEAD_S = 0.5

_CONFIG = """
models: {m: {source: s}}
pools:
  cpu: {model: m, gpu_type: cpu, replicas: {min: 1, max: 1}, max_concurrent_requests: 1024}
gateway: {queue_timeout_s: 3600}
"""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of one run, in seconds, one entry a request."""

    ttft_s: Sequence[float]
    tpot_s: Sequence[float]

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> "Latencies":
        """What the client saw."""
        return cls([answer.ttft_s for answer in answers], [answer.tpot_s for answer in answers])


def synthetic_slice(*, seed: int, requests: int, rate_per_s: float) -> Trace:
    """Poisson arrivals, log-normal lengths that two cores can compute."""
    return _bounded(
        steady(
            rate_per_s=rate_per_s,
            requests=requests,
            seed=seed,
            prompt=LengthShape(median=80.0, sigma=0.7),
            answer=LengthShape(median=20.0, sigma=0.6),
        ),
        length_scale=1.0,
    )


def traced_slice(path: Path, *, number: int, requests: int, rate_per_s: float, length_scale: float) -> Trace:
    """A run of a trace's requests, at another mean rate and with other lengths.

    Args:
        path: the trace.
        number: which slice of that many requests, from 0 on.
        requests: how many.
        rate_per_s: mean rate that time is stretched or squeezed to.
        length_scale: lengths are divided by this.

    Raises:
        TraceError: it cannot be read or is too short.
    """
    whole = open_trace((path,), requests_max=(number + 1) * requests)
    if len(whole) < (number + 1) * requests:
        number = 0
    part = slice(number * requests, (number + 1) * requests)
    arrival_s = whole.arrival_s[part]
    cut = trace_of(whole.name, arrival_s - arrival_s[0], whole.prompt_tokens[part], whole.output_tokens[part])
    return _bounded(cut.at_rate(rate_per_s), length_scale=length_scale)


def _bounded(trace: Trace, *, length_scale: float) -> Trace:
    return replace(
        trace,
        prompt_tokens=np.clip(np.round(trace.prompt_tokens / length_scale), 1, PROMPT_TOKENS_MAX).astype(int),
        output_tokens=np.clip(
            np.round(trace.output_tokens / length_scale), OUTPUT_TOKENS_MIN, OUTPUT_TOKENS_MAX
        ).astype(int),
    )


async def replayed(engine: Engine, trace: Trace) -> list[Answer]:
    """Send a trace's requests in their time to the real engine; the answers, in the order of arrival."""
    loop = asyncio.get_running_loop()
    began_at_s = loop.time() + _LEAD_S
    asked = []
    for arrival_s, prompt, answer in zip(
        trace.arrival_s, trace.prompt_tokens, trace.output_tokens, strict=True
    ):
        due_at_s = began_at_s + float(arrival_s)
        await asyncio.sleep(max(0.0, due_at_s - loop.time()))
        asked.append(asyncio.create_task(engine.ask(int(prompt), int(answer), arrived_at_s=due_at_s)))
    return await asyncio.gather(*asked)


def performance_of(times: StepTimes) -> ReplicaPerformance:
    """The simulator's description of the calibrated engine."""
    config = _config()
    return replace(
        pool_performance(config.pools["cpu"], config.models["m"]),
        step_base_s=times.step_base_s,
        step_per_sequence_s=times.step_per_sequence_s,
        step_per_context_token_s=times.step_per_context_token_s,
        prefill_token_s=times.prefill_token_s,
        batch_tokens_max=BATCH_TOKENS_MAX,
        sequences_max=SEQUENCES_MAX,
        kv_tokens_max=KV_TOKENS_MAX,
        kv_block_tokens=KV_BLOCK_TOKENS,
    )


def simulated(trace: Trace, times: StepTimes) -> Latencies:
    """The trace on one simulated replica; the constant of the client's path is added to each TTFT."""
    performance = {"cpu": performance_of(times)}
    simulation = Simulation(
        Scenario(config=_config(), traces={"m": trace}, policy="fixed", performance=performance)
    )
    simulation.run()
    done = simulation.world.requests
    return Latencies(
        [request.ttft_s + times.first_token_s for request in done], [request.tpot_s for request in done]
    )


def slower(answers: Sequence[Answer], trace: Trace, times: StepTimes) -> float:
    """How much longer the steps of a replay took than calibration says; 1 if nothing has changed.

    Of the steps whose composition is certain; it tells a machine that has become slower from a simulator that
    composes steps wrongly.

    Raises:
        ValueError: the composition of no step is certain.
    """
    samples = open_samples(list(zip(answers, map(int, trace.prompt_tokens), strict=True)))
    if not samples:
        raise ValueError("no step of the replay can be taken apart")
    return sum(sample.took_s for sample in samples) / sum(times.of(sample) for sample in samples)


def utilisation(trace: Trace, times: StepTimes) -> float:
    """Work that arrives in a second over what full batches would do in it."""
    context = trace.prompt_tokens + trace.output_tokens / 2.0
    token_s = times.step_base_s / SEQUENCES_MAX + times.step_per_sequence_s
    decode_s = trace.output_tokens * (token_s + times.step_per_context_token_s * context)
    work_s = float(np.sum(trace.prompt_tokens * times.prefill_token_s + decode_s))
    return work_s / trace.duration_s


def compared(real: Latencies, model: Latencies) -> dict[str, Any]:
    """Percentiles of both and the relative errors of the simulation (0.1: a tenth too long)."""
    found: dict[str, Any] = {}
    for name in ("ttft", "tpot"):
        measured, predicted = (np.asarray(getattr(run, f"{name}_s")) for run in (real, model))
        for percent in (50, 95):
            here, there = (float(np.percentile(values, percent)) for values in (measured, predicted))
            found[f"real_{name}_p{percent}_s"] = here
            found[f"simulated_{name}_p{percent}_s"] = there
            found[f"{name}_p{percent}_error"] = there / here - 1.0
    return found


def _config() -> TidemillConfig:
    return parse_config(_CONFIG)
