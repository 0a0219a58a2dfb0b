"""Runs of a fleet under a trace: traffic for each model, seeds, several processes, rows of figures."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.config.root import TidemillConfig
from cluster.simulation.processes import worker_processes
from cluster.simulation.report import Report
from cluster.simulation.run import simulate
from cluster.simulation.scenario import Scenario
from cluster.simulation.traffic.open import open_trace
from cluster.simulation.traffic.trace import Trace, TraceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Where the requests come from: one trace for each model."""

    files: Mapping[str, tuple[Path, ...]]
    """By model."""
    rate_per_s: float | None = None
    duration_s: float | None = None
    start_s: float = 0.0
    requests_max: int | None = None

    def traces(self, seed: int) -> dict[str, Trace]:
        """Read or draw them.

        Raises:
            TraceError: a file cannot be read.
        """
        return {
            model: open_trace(
                paths,
                seed=seed,
                rate_per_s=self.rate_per_s,
                duration_s=self.duration_s,
                start_s=self.start_s,
                requests_max=self.requests_max,
            )
            for model, paths in self.files.items()
        }


def traffic_files(config: TidemillConfig, given: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Which file is for which model: `MODEL=FILE`, or just `FILE` where there is one model.

    Raises:
        TraceError: a model is unknown, or a file's model is not clear.
    """
    files: dict[str, list[Path]] = {}
    for text in given:
        model, sign, path = text.partition("=")
        if not sign:
            if len(config.models) != 1:
                models = ", ".join(sorted(config.models))
                raise TraceError(f"{text}: for which model? write MODEL={text}; there are {models}")
            model, path = next(iter(config.models)), text
        if model not in config.models:
            raise TraceError(f"{text}: no model {model!r}; there are {', '.join(sorted(config.models))}")
        files.setdefault(model, []).append(Path(path))
    return {model: tuple(paths) for model, paths in files.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run to do."""

    config: TidemillConfig
    traffic: Traffic
    policy: str
    seed: int
    warm_up_s: float = 0.0


def run_case(case: Case, progress: Callable[[float], None] | None = None) -> Report:
    """Simulate one case."""
    return simulate(
        Scenario(
            config=case.config,
            traces=case.traffic.traces(case.seed),
            seed=case.seed,
            policy=case.policy,
            started_at_unix_s=case.traffic.start_s,
            warm_up_s=case.warm_up_s,
        ),
        progress,
    )


def run_cases(cases: Sequence[Case], jobs: int | None = None) -> Iterator[tuple[Case, Report]]:
    """Simulate many, in several processes; results come in the order in which they are done."""
    jobs = min(len(cases), jobs or os.cpu_count() or 1)
    if jobs <= 1:
        for case in cases:
            yield case, run_case(case)
        return
    with worker_processes(jobs) as pool:
        waiting = {pool.submit(_lean, case): case for case in cases}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def _lean(case: Case) -> Report:
    """Without the timeline, which is large to hand over between processes."""
    report = run_case(case)
    return replace(report, timeline=type(report.timeline)())


def figures(report: Report) -> dict[str, float | int]:
    """A report as one flat row; units are in the names."""
    return {
        "energy_j": report.energy_j,
        "cost_usd": report.cost_usd,
        "slo_attainment": report.slo_attainment,
        "p50_ttft_s": report.ttft_s["p50"],
        "p95_ttft_s": report.ttft_s["p95"],
        "p99_ttft_s": report.ttft_s["p99"],
        "p50_tpot_s": report.tpot_s["p50"],
        "p95_tpot_s": report.tpot_s["p95"],
        "p99_tpot_s": report.tpot_s["p99"],
        "scale_events": report.scale_events,
        "direction_changes": report.direction_changes,
        "requests": report.requests,
        "completed": report.completed,
        "failed": report.failed,
        "rejected": report.rejected,
        "duration_s": report.duration_s,
        "energy_j_per_output_token": report.joules_per_output_token,
        "degraded_s": report.degraded_s,
        "replicas_mean": sum(pool.replica_s for pool in report.pools.values()) / max(report.duration_s, 1e-9),
        **{
            f"replicas_mean_{name}": pool.replica_s / max(report.duration_s, 1e-9)
            for name, pool in sorted(report.pools.items())
        },
    }


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of a sample; NaN for an empty one."""
    if not values:
        return math.nan, math.nan
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
