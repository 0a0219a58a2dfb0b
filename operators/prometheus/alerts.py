"""Rules by which Prometheus tells a person that something is to be done; what, is in docs/operations.md.

Burn rates are those of Google's SRE workbook (chapter 5, "Multiwindow, multi-burn-rate alerts"): the budget
of thirty days spent so fast that a long window shows it matters and a short one that it goes on.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.metrics import Metric, fleet, objectives, requests, semantic_cache

RUNBOOK = "docs/operations.md#alerts"
_BURN_RATES = (
    ("Fast", "1h", "5m", 14.4, "page"),
    ("Steady", "6h", "30m", 6.0, "page"),
    ("Slow", "1d", "2h", 3.0, "ticket"),
)
_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d")
_BAD_RATIO_MAX = 0.9
"""A loose objective times a burn rate can exceed what is possible; so many bad answers always count."""
_REQUESTS_MIN = 20
"""In the long window: one request that fails at night is no reason to wake somebody."""
_JUDGED_MIN = 20
_STALE_S = 15
_SILENT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One rule."""

    name: str
    expr: str
    wait: str
    """How long it must hold."""
    severity: Literal["page", "ticket"]
    summary: str
    labels: dict[str, str] = field(default_factory=dict)

    def rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.wait,
            "labels": {"severity": self.severity, **self.labels},
            "annotations": {"summary": self.summary, "runbook": RUNBOOK},
        }


def alert_rules() -> dict[str, Any]:
    """The whole file."""
    return {
        "groups": [
            {"name": "tidemill-objectives", "rules": [*_recordings(), *(a.rule() for a in burn_alerts())]},
            {"name": "tidemill-health", "rules": [alert.rule() for alert in health_alerts()]},
        ]
    }


def bad_ratio(window: str) -> str:
    """Name of the recorded share of requests that missed their objectives or failed."""
    return f"model:tidemill_slo_bad:ratio_rate{window}"


def _recordings() -> list[dict[str, Any]]:
    counted = objectives.SLO_REQUESTS.name
    return [
        {
            "record": bad_ratio(window),
            "expr": f'(sum by (model) (rate({counted}{{result!="met"}}[{window}])) '
            f"or 0 * sum by (model) (rate({counted}[{window}]))) "
            f"/ sum by (model) (rate({counted}[{window}]))",
        }
        for window in _WINDOWS
    ]


def burn_alerts() -> list[Alert]:
    """An objective that is being missed, faster or slower."""
    counted = objectives.SLO_REQUESTS.name
    allowed = f"(1 - max by (model) ({objectives.SLO_TARGET.name}))"
    found = []
    for speed, long, short, rate, severity in _BURN_RATES:
        limit = f"clamp_max({rate:g} * {allowed}, {_BAD_RATIO_MAX})"
        found.append(
            Alert(
                name=f"TidemillObjectivesMissed{speed}",
                expr=f"{bad_ratio(long)} > {limit} and {bad_ratio(short)} > {limit} "
                f"and sum by (model) (increase({counted}[{long}])) >= {_REQUESTS_MIN}",
                wait="2m",
                severity="page" if severity == "page" else "ticket",
                summary="{{ $labels.model }}: {{ $value | humanizePercentage }} of the requests of the last "
                f"{long} missed their objectives or failed",
                labels={"window": long},
            )
        )
    return found


def health_alerts() -> list[Alert]:
    """Parts of the system that do not do what they should."""
    return [*_fleet_alerts(), *_telling_alerts(), *_cache_alerts(), *_process_alerts()]


def _each(metric: Metric, selector: str = "", by: str = "pool") -> str:
    """What every router tells alike, once."""
    return f"max by ({by}) ({metric.name}{selector})"


def _fleet_alerts() -> list[Alert]:
    requested = _each(objectives.REPLICAS_REQUESTED)
    there = _each(requests.REPLICAS, '{phase="ready"}')
    ready = f"({there} or 0 * {requested})"
    return [
        Alert(
            name="TidemillPoolStuck",
            expr=f"{requested} - {ready} > 0",
            wait="10m",
            severity="page",
            summary="{{ $labels.pool }} lacks {{ $value }} replicas that were asked for ten minutes ago",
        ),
        Alert(
            name="TidemillPoolUnplaceable",
            expr=_each(objectives.POOL_PLAN_REASONS, '{reason="unplaceable"}') + " == 1",
            wait="15m",
            severity="ticket",
            summary="the hardware of {{ $labels.pool }} is not to be had",
        ),
        Alert(
            name="TidemillPlanDegraded",
            expr=f"max({fleet.PLAN_DEGRADED.name}) == 1",
            wait="10m",
            severity="ticket",
            summary="the forecast demand cannot be served within the objectives",
        ),
        Alert(
            name="TidemillRequestsRejected",
            expr=f"sum by (reason) (rate({requests.REJECTED.name}[5m])) > 0",
            wait="5m",
            severity="ticket",
            summary="requests are turned away: {{ $labels.reason }}",
        ),
    ]


def _telling_alerts() -> list[Alert]:
    errors = fleet.METER_ERRORS
    measured = f'{fleet.POOL_POWER.name}{{source="measured"}}'
    return [
        Alert(
            name="TidemillEnergyMeterDead",
            expr=_each(errors, '{error=~"gpu_is_lost|no_driver|uninitialised|silent|other"}', "meter, error")
            + " > 0",
            wait="5m",
            severity="ticket",
            summary="{{ $labels.meter }} cannot read {{ $value }} devices: {{ $labels.error }}",
        ),
        Alert(
            name="TidemillEnergyNoLongerMeasured",
            expr=f'max by (pool) ({fleet.POOL_POWER.name}{{source="modelled"}}) '
            f"and on (pool) max by (pool) (max_over_time({measured}[1h])) unless on (pool) {measured}",
            wait="5m",
            severity="ticket",
            summary="energy of {{ $labels.pool }} was measured and is only modelled now",
        ),
        Alert(
            name="TidemillSnapshotStale",
            expr=f"{_each(objectives.REPORT_AGE)} > {_STALE_S}",
            wait="1m",
            severity="page",
            summary="a replica of {{ $labels.pool }} has not reported for {{ $value | humanizeDuration }}",
        ),
        Alert(
            name="TidemillDirectoryAway",
            expr=f"{objectives.FLEET_VIEW_AGE.name} > {_STALE_S}",
            wait="1m",
            severity="page",
            summary="router {{ $labels.replica }} has heard nothing of the fleet for "
            "{{ $value | humanizeDuration }}",
        ),
        Alert(
            name="TidemillProvisionerSilent",
            expr=f"max({fleet.PLAN_AGE.name}) > {_SILENT_S}",
            wait="1m",
            severity="page",
            summary="no decision of the provisioner for {{ $value | humanizeDuration }}",
        ),
        Alert(
            # One that fails from its first round on leaves no age. While engines start there is none either.
            name="TidemillProvisionerMissing",
            expr=f'absent({fleet.PLAN_AGE.name}) and on () up{{job="tidemill-router"}} == 1',
            wait="15m",
            severity="page",
            summary="no router knows of any decision of the provisioner",
        ),
        Alert(
            name="TidemillDecisionsDropped",
            expr=f"sum(increase({requests.DECISIONS_DROPPED.name}[10m])) > 0",
            wait="0m",
            severity="ticket",
            summary="{{ $value }} decisions are missing in the log",
        ),
    ]


def _cache_alerts() -> list[Alert]:
    wrong = _each(semantic_cache.CACHE_WRONG_RATE, by="category")
    bound = _each(semantic_cache.CACHE_ERROR_MAX, by="category")
    judged = f"sum by (category) ({semantic_cache.CACHE_JUDGEMENTS.name})"
    return [
        Alert(
            name="TidemillCacheWrong",
            expr=f"{wrong} > {bound} and {judged} >= {_JUDGED_MIN}",
            wait="5m",
            severity="page",
            summary="near matches of {{ $labels.category }} are wrong in {{ $value | humanizePercentage }}",
        ),
        Alert(
            name="TidemillCacheAway",
            expr=f"sum(rate({requests.LOOKUPS_SKIPPED.name}[5m])) > 0",
            wait="5m",
            severity="ticket",
            summary="requests go on without the semantic cache",
        ),
    ]


def _process_alerts() -> list[Alert]:
    return [
        Alert(
            name="TidemillRouterDown",
            expr='up{job="tidemill-router"} == 0 or absent(up{job="tidemill-router"})',
            wait="1m",
            severity="page",
            summary="a router cannot be scraped, or there is none",
        ),
        Alert(
            name="TidemillReplicaUnscraped",
            expr='up{job="vllm"} == 0',
            wait="5m",
            severity="ticket",
            summary="engine {{ $labels.replica }} is in the fleet and does not answer a scrape",
        ),
    ]
