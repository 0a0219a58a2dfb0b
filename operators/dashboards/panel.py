"""What a panel shows, before it is Grafana's JSON; one is made for every metric of the catalogue."""

import re
from dataclasses import dataclass
from typing import Literal

from cluster.metrics import Metric

RATE_WINDOW = "$__rate_interval"
"""Grafana's own: four scrapes at least."""
_QUANTILES = (0.5, 0.95, 0.99)
_UNITS = {
    "seconds": "s",
    "joules": "joule",
    "watts": "watt",
    "bytes": "bytes",
    "ratio": "percentunit",
    "requests_per_second": "reqps",
}
_RATE_UNITS = {"seconds": "percentunit", "joules": "watt", "bytes": "Bps"}
"""Of what counters in these units grow by in a second."""
_NAMES = re.compile(r"\b(tidemill_[a-z0-9_]+[a-z])\b")
_SUFFIXES = re.compile(r"_(bucket|sum|count)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One line, or one for each combination of labels."""

    expr: str
    """PromQL."""
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    """Grafana's name of it."""
    kind: Literal["timeseries", "stat"] = "timeseries"
    description: str = ""
    stacked: bool = False

    @property
    def metrics(self) -> frozenset[str]:
        """Names of the catalogue that it shows, as far as patterns can tell."""
        found = {name for query in self.queries for name in _NAMES.findall(query.expr)}
        return frozenset(found | {_SUFFIXES.sub("", name) for name in found})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard."""

    name: str
    """Part of its uid and of its file's name."""
    title: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them."""
        return tuple(panel for row in self.rows for panel in row.panels)


def panel_of(metric: Metric) -> Panel:
    """The panel that every metric has, by its kind."""
    if metric.kind == "histogram":
        queries, unit = _quantiles(metric), _UNITS.get(metric.unit, "short")
    elif metric.kind == "counter":
        expr = _by(metric, "sum", f"rate({metric.name}[{RATE_WINDOW}])")
        queries = (Query(expr=expr, legend=_legend(metric)),)
        unit = _RATE_UNITS.get(metric.unit, "ops")
    else:
        alike = metric.everywhere or metric.unit in ("seconds", "ratio")
        queries = (Query(expr=_by(metric, "max" if alike else "sum", metric.name), legend=_legend(metric)),)
        unit = _UNITS.get(metric.unit, "short")
    return Panel(title=metric.title, queries=queries, unit=unit, description=metric.help)


def _quantiles(metric: Metric) -> tuple[Query, ...]:
    labels = ", ".join(("le", *metric.labels))
    rates = f"sum by ({labels}) (rate({metric.name}_bucket[{RATE_WINDOW}]))"
    return tuple(
        Query(expr=f"histogram_quantile({q:g}, {rates})", legend=f"p{q * 100:g} {_legend(metric)}".strip())
        for q in _QUANTILES
    )


def _by(metric: Metric, how: str, inner: str) -> str:
    labels = f" by ({', '.join(metric.labels)}) " if metric.labels else ""
    return f"{how}{labels}({inner})"


def _legend(metric: Metric) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in metric.labels)
