"""What replicas' reports tell of their speed and power, from one report to the next.

The live provisioner and the simulated one learn with these same classes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.entities.energy import EnergySource
from cluster.entities.performance import ReplicaPerformance
from cluster.entities.pool import PoolName, ReplicaId, ReplicaReport
from cluster.performance.estimator import EstimatorState, PerformanceSample, observe, refit
from cluster.performance.power import step_w

_SAMPLE_S = 1.0
"""Windows shorter than this say little about a pool's speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportWindow:
    """What a replica did between two of its reports."""

    before: ReplicaReport
    after: ReplicaReport

    @property
    def span_s(self) -> float:
        """Its length; above 0."""
        return self.after.observed_at_s - self.before.observed_at_s


class ReportWindows:
    """Remembers every replica's last report."""

    def __init__(self, *, span_s_min: float = 0.0) -> None:
        """Start from nothing.

        Args:
            span_s_min: shorter windows wait for the next report.
        """
        self._span_s_min = span_s_min
        self._before: dict[ReplicaId, ReplicaReport] = {}

    def advance(self, reports: Iterable[ReplicaReport]) -> tuple[ReportWindow, ...]:
        """The windows that these reports end, ordered by replica; a report seen before ends none."""
        alive: dict[ReplicaId, ReplicaReport] = {}
        windows = []
        for report in sorted(reports, key=lambda found: found.replica_id):
            before = self._before.get(report.replica_id)
            alive[report.replica_id] = report
            if before is None:
                continue
            span_s = report.observed_at_s - before.observed_at_s
            if span_s < 0:  # its node's clock was set back: the next window begins here
                continue
            if span_s == 0 or span_s < self._span_s_min:
                alive[report.replica_id] = before
                continue
            windows.append(ReportWindow(before=before, after=report))
        self._before = alive
        return tuple(windows)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntSpeed:
    """What was learnt of one pool, to be kept."""

    profile: ReplicaPerformance
    """What it is relative to."""
    estimate: EstimatorState


class SpeedLearner:
    """What is believed of every pool's replicas: the catalogue, corrected by what they say they did."""

    def __init__(self, profiles: Mapping[str, ReplicaPerformance]) -> None:
        """Start from the catalogue.

        Args:
            profiles: by pool.
        """
        self._profiles = dict(profiles)
        self._estimates = dict.fromkeys(profiles, EstimatorState())
        self._windows = ReportWindows(span_s_min=_SAMPLE_S)

    def learnt(self) -> dict[str, LearntSpeed]:
        """By pool, to be kept over a restart."""
        return {
            name: LearntSpeed(profile=profile, estimate=self._estimates[name])
            for name, profile in self._profiles.items()
        }

    def recall(self, learnt: Mapping[str, LearntSpeed]) -> None:
        """Go on from what was learnt before a restart, where it was learnt against the same profile."""
        for name, found in learnt.items():
            if self._profiles.get(name) == found.profile:
                self._estimates[name] = found.estimate

    def performance(self) -> dict[str, ReplicaPerformance]:
        """By pool, as believed now."""
        return {name: refit(profile, self._estimates[name]) for name, profile in self._profiles.items()}

    def learn(self, reports: Iterable[ReplicaReport]) -> None:
        """Let every replica's last window say how fast its pool is."""
        for window in self._windows.advance(reports):
            pool = window.after.pool
            profile = self._profiles.get(pool)
            if profile is not None:
                sample = _sample(window, profile)
                self._estimates[pool] = observe(profile, self._estimates[pool], sample)


class OutputRates:
    """Tokens per second that every pool's replicas make, of answers that are over or not."""

    def __init__(self) -> None:
        """Start from nothing."""
        self._windows = ReportWindows()

    def update(self, reports: Iterable[ReplicaReport]) -> dict[str, float]:
        """By pool, over the windows that these reports end; pools of which none ends are left out."""
        rates: dict[str, list[float]] = {}
        for window in self._windows.advance(reports):
            made = window.after.counters.output_tokens - window.before.counters.output_tokens
            rates.setdefault(window.after.pool, []).append(max(0, made) / window.span_s)
        return {pool: math.fsum(found) for pool, found in rates.items()}


class PoolPower:
    """Power of every pool over its replicas' last windows."""

    def __init__(self) -> None:
        """Start from nothing."""
        self._power: dict[PoolName, tuple[float, EnergySource]] = {}

    def update(
        self,
        parts: Mapping[PoolName, Sequence[tuple[float, EnergySource]]],
        reports: Iterable[ReplicaReport],
    ) -> None:
        """Take in one window.

        Args:
            parts: (watts, source) of every replica with a window, by pool; a pool without any keeps what it
                had.
            reports: pools of which nobody reports are forgotten.
        """
        reporting = {report.pool for report in reports}
        for pool, found in parts.items():
            measured = all(source is EnergySource.MEASURED for _, source in found)
            source = EnergySource.MEASURED if measured else EnergySource.MODELLED
            self._power[pool] = (math.fsum(power_w for power_w, _ in found), source)
        self._power = {pool: power for pool, power in self._power.items() if pool in reporting}

    def of(self, pool: str) -> tuple[float, EnergySource] | None:
        """Watts and their source; None if nothing is known."""
        return self._power.get(PoolName(pool))


def modelled_w(performance: ReplicaPerformance, window: ReportWindow) -> float:
    """Mean power of a replica in a window, from the power model and what it did.

    The time between its tokens, added up over sequences and divided by the time that passed, is the mean
    number of sequences that decoded.
    """
    before, after, span_s = window.before.counters, window.after.counters, window.span_s
    sequences = max(0.0, after.token_gaps_s - before.token_gaps_s) / span_s
    prefill = max(0.0, after.prefill_s - before.prefill_s) / span_s
    return step_w(performance, sequences=sequences, prefill_share=min(1.0, prefill))


def _sample(window: ReportWindow, profile: ReplicaPerformance) -> PerformanceSample:
    before, after = window.before, window.after
    gaps = after.counters.token_gaps - before.counters.token_gaps
    gaps_s = max(0.0, after.counters.token_gaps_s - before.counters.token_gaps_s)
    return PerformanceSample(
        sequences=gaps_s / window.span_s,
        context_tokens=(before.kv_cache_usage + after.kv_cache_usage) / 2.0 * profile.kv_tokens_max,
        itl_s=gaps_s / gaps if gaps > 0 else None,
        prefill_tokens=float(max(0, after.counters.prefill_tokens - before.counters.prefill_tokens)),
        window_s=window.span_s,
    )
