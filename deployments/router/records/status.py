"""What the page for people shows: the fleet as this router knows it, and what its requests came to.

Everything here is a sum, or belongs to the cluster; what belongs to single requests is in `decisions`, which
not everybody may see.
"""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from cluster.config.observability import StatusPageConfig
from cluster.entities.decision import DecisionRecord
from cluster.entities.energy import EnergySource
from cluster.entities.fleet import ReplicaStage
from deployments.router.fleet.view import FleetPicture
from deployments.router.records.request_log import pool_of

_WINDOW_S = 60.0
_WINDOW_REQUESTS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class _Finished:
    """What rates and latencies of the last minute are made from."""

    at_s: float
    output_tokens: int
    ttft_s: float | None


class StatusBoard:
    """Sums of one router since it started, and its last minute."""

    def __init__(self, config: StatusPageConfig, *, started_at_s: float) -> None:
        """Start with nothing.

        Args:
            config: how much is kept.
            started_at_s: Unix time.
        """
        self.started_at_s = started_at_s
        """Unix time."""
        self._paths: Counter[str] = Counter()
        self._cache: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._output_tokens = 0
        self._energy_j: dict[EnergySource, float] = {}
        self._recent: deque[_Finished] = deque(maxlen=_WINDOW_REQUESTS_MAX)
        self._decisions: deque[DecisionRecord] = deque(maxlen=config.decisions_max)

    def finished(self, record: DecisionRecord) -> None:
        """Take in a request that is over."""
        self._paths[record.path.value if record.path else "none"] += 1
        self._cache[record.cache] += 1
        self._statuses["client left" if record.status == 0 else f"{record.status // 100}xx"] += 1
        self._output_tokens += record.output_tokens
        ended_at_s = record.timeline.ended_at_s or record.timeline.arrived_at_s
        self._recent.append(_Finished(ended_at_s, record.output_tokens, record.timeline.ttft_s))
        self._forget(ended_at_s)
        self._decisions.append(record)

    def used(self, source: EnergySource, energy_j: float) -> None:
        """Take in energy, a request's or nobody's."""
        self._energy_j[source] = self._energy_j.get(source, 0.0) + energy_j

    def requests(self, now_s: float, *, in_flight: int, queued: int) -> dict[str, Any]:
        """What requests came to.

        Args:
            now_s: on the clock of the records' timelines.
            in_flight: requests that are worked on.
            queued: requests that wait.
        """
        self._forget(now_s)
        seen = [done for done in self._recent if done.at_s >= now_s - _WINDOW_S]
        ttfts = sorted(done.ttft_s for done in seen if done.ttft_s is not None)
        return {
            "in_flight": in_flight,
            "queued": queued,
            "finished": sum(self._statuses.values()),
            "paths": dict(self._paths),
            "cache": dict(self._cache),
            "statuses": dict(self._statuses),
            "output_tokens": self._output_tokens,
            "energy_j": {source.value: round(used, 1) for source, used in self._energy_j.items()},
            "per_s": round(len(seen) / _WINDOW_S, 3),
            "output_tokens_per_s": round(sum(done.output_tokens for done in seen) / _WINDOW_S, 1),
            "ttft_p50_s": _quantile(ttfts, 0.5),
            "ttft_p95_s": _quantile(ttfts, 0.95),
        }

    def _forget(self, now_s: float) -> None:
        """Forget what the window is past, whether anybody looks at the page or not."""
        while self._recent and self._recent[0].at_s < now_s - _WINDOW_S:
            self._recent.popleft()

    def decisions(self) -> list[dict[str, Any]]:
        """The latest requests, newest first: where they went and why, not who asked or what."""
        return [_decision(record) for record in reversed(self._decisions)]


def pools(picture: FleetPicture, configured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every pool that is configured or has replicas.

    Args:
        picture: of the fleet.
        configured: what is shown of each pool in any case, by its name.
    """
    plan = picture.plan
    seen = {} if plan is None else {pool.pool: pool for pool in plan.pools}
    wanted = {} if plan is None else {target.pool: target.replicas for target in plan.plan.pools}
    replicas: dict[str, list[dict[str, Any]]] = {name: [] for name in configured}
    for report in picture.reports():
        replicas.setdefault(report.pool, []).append(
            {
                "id": report.replica_id,
                "phase": report.phase.value,
                "running": report.requests_running,
                "waiting": report.requests_waiting,
                "in_flight": picture.in_flight(report.replica_id),
                "most": report.max_concurrent_requests,
                "kv": round(report.kv_cache_usage, 3),
            }
        )
    found = []
    for name, members in replicas.items():
        observed = next((pool for known, pool in seen.items() if known == name), None)
        source = None if observed is None else observed.power_source
        found.append(
            {
                "name": name,
                **configured.get(name, {}),
                "wanted": next((number for known, number in wanted.items() if known == name), None),
                "starting": 0 if observed is None else observed.count(ReplicaStage.STARTING),
                "power_w": None if observed is None else observed.power_w,
                "power_source": None if source is None else source.value,
                "replicas": sorted(members, key=lambda replica: str(replica["id"])),
            }
        )
    return found


def provisioner(picture: FleetPicture, now_wall_s: float) -> dict[str, Any] | None:
    """The provisioner's last decision; None if there is none."""
    plan = picture.plan
    if plan is None:
        return None
    return {
        "policy": plan.policy,
        "age_s": round(max(0.0, now_wall_s - plan.decided_at_s), 1),
        "power_w": plan.plan.power_w,
        "degraded": plan.plan.degraded,
        "reasons": [reason.value for reason in plan.reasons],
    }


def _decision(record: DecisionRecord) -> dict[str, Any]:
    timeline = record.timeline
    return {
        "id": record.decision_id,
        "at_wall_s": record.at_wall_s,
        "model": record.signals.model,
        "path": None if record.path is None else record.path.value,
        "cache": record.cache,
        "pool": pool_of(record),
        "replica": None if record.replica is None else record.replica.choice.replica_id,
        "status": record.status,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "ttft_s": timeline.ttft_s,
        "e2e_s": timeline.e2e_s,
        "reasons": _reasons(record),
    }


def _reasons(record: DecisionRecord) -> list[str]:
    """Of the request and of each choice that was made for it."""
    found = [reason.value for reason in record.reasons]
    if record.model_choice is not None:
        found += [reason.value for reason in record.model_choice.choice.reasons]
    if record.replica is not None:
        found += [reason.value for reason in record.replica.choice.reasons]
    if record.path_decision is not None:
        found += [reason.value for reason in record.path_decision.choice.reasons]
    return list(dict.fromkeys(found))


def _quantile(ordered: list[float], q: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None
