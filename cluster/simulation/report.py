"""What a simulation found."""

from dataclasses import dataclass, field

import numpy as np

from cluster.simulation.control import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """One pool over the whole run."""

    energy_j: float
    cost_usd: float
    replica_s: float
    """Time that its replicas existed, starts included, added up."""
    replicas_max: int
    """Most replicas that existed at a decision."""
    scale_ups: int
    scale_downs: int
    direction_changes: int
    """Changes against the direction of the one before, within an hour."""
    preemptions: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run. Energy and cost are up to the last arrival; latencies are of requests after the warm-up."""

    requests: int
    completed: int
    failed: int
    """Streams that broke because their replica died."""
    rejected: int
    """Waited too long, or could never fit."""
    duration_s: float
    """Until the last arrival."""
    energy_j: float
    cost_usd: float
    slo_attainment: float
    """Share of all counted requests that met TTFT and TPOT; failed and rejected ones did not."""
    ttft_s: dict[str, float]
    """`mean`, `p50`, `p90`, `p95`, `p99`."""
    tpot_s: dict[str, float]
    output_tokens: int
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens found in prefix caches."""
    disaggregated: int
    """Completed requests whose prompt another replica computed."""
    scale_events: int
    direction_changes: int
    degraded_s: float
    """Time in which the policy said that demand cannot be served within SLO."""
    pools: dict[str, PoolReport]
    timeline: Timeline = field(repr=False, compare=False)
    events: int
    """Events that the simulator handled."""

    @property
    def joules_per_output_token(self) -> float:
        """Energy of the fleet by tokens given to clients."""
        return self.energy_j / self.output_tokens if self.output_tokens else float("nan")


def quantiles(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> dict[str, float]:
    """Mean and the usual quantiles; NaN where there is nothing to tell of."""
    if not len(values):
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99"), float("nan"))
    points = np.quantile(values, (0.5, 0.9, 0.95, 0.99))
    names = ("p50", "p90", "p95", "p99")
    return {"mean": float(values.mean()), **{n: float(p) for n, p in zip(names, points, strict=True)}}
