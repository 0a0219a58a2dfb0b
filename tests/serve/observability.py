"""What a live cluster must show to Prometheus, for the test modules whose clusters are at hand."""

import json
import re
import time
from typing import Any

from cluster.metrics import CATALOGUE, fleet, objectives
from operators.dashboards.boards import boards
from tests.serve.conftest import Cluster
from tests.serve.prometheus import Prometheus

_SELECTORS = re.compile(r"\b((?:tidemill_|ray_|vllm:)[a-z0-9_]+(?:\{[^}]*\})?)")
_RATE_WINDOW = "10s"
OF_PLANS = frozenset(
    {
        fleet.PLAN_AGE,
        objectives.FORECAST,
        objectives.PLAN_REASONS,
        objectives.POOL_PLAN_REASONS,
        objectives.REPLICAS_REQUESTED,
        objectives.REPORT_AGE,
    }
)
"""What there is only where the provisioner has planned."""


def targets_of(cluster: Cluster, wanted: dict[str, int]) -> list[dict[str, Any]]:
    """The file that `tidemill up` keeps, once it lists so many addresses of each job."""
    path = cluster.state / "prometheus" / "targets.json"
    found: list[dict[str, Any]] = []

    def complete() -> bool:
        if not path.exists():
            return False
        found[:] = json.loads(path.read_text())
        counts: dict[str, int] = {}
        for group in found:
            counts[group["labels"]["job"]] = counts.get(group["labels"]["job"], 0) + len(group["targets"])
        return all(counts.get(job, 0) >= count for job, count in wanted.items())

    cluster.wait_for(f"targets {wanted} in {path}", complete, 30)
    return found


def wait_scraped(prometheus: Prometheus, targets: list[dict[str, Any]]) -> None:
    """Until every target was scraped often enough for rates; of Ray's, which names ports of parts that may
    not run, until one was."""
    wanted = {target for group in targets if group["labels"]["job"] != "ray" for target in group["targets"]}
    deadline_s = time.monotonic() + 40
    while True:
        ready = prometheus.query("count_over_time(up[1m]) >= 4 and up == 1")
        scraped = {series["metric"]["instance"] for series in ready}
        if wanted <= scraped and any(series["metric"]["job"] == "ray" for series in ready):
            return
        assert time.monotonic() < deadline_s, prometheus.query("up")
        time.sleep(0.5)


def assert_only_the_catalogue(families: dict[str, str]) -> None:
    """Whatever is exposed under our name is in the catalogue, by that type."""
    kinds = {metric.name: metric.kind for metric in CATALOGUE}
    # Counters and histograms come with the time at which each series began.
    ours = {
        name: kind
        for name, kind in families.items()
        if name.startswith("tidemill_") and not name.endswith("_created")
    }
    assert ours
    unknown = {name for name in ours if name not in kinds}
    assert not unknown
    assert {name: kinds[name] for name in ours} == ours


def assert_panels_show(prometheus: Prometheus) -> list[str]:
    """Run every query of every panel; where its series have data the panel must have some.

    Returns:
        Titles of the panels that showed something.
    """
    showing = []
    for board in boards():
        for panel in board.panels:
            for query in panel.queries:
                expr = query.expr.replace("$__rate_interval", _RATE_WINDOW)
                found = prometheus.query(expr)
                parts = set(_SELECTORS.findall(query.expr))
                assert parts, expr
                has_data = all(prometheus.query(_twice(part)) for part in parts)
                assert found or not has_data, f"{board.name}: {panel.title}: nothing for {expr}"
                if found:
                    showing.append(f"{board.name}: {panel.title}")
    return showing


def _twice(selector: str) -> str:
    """Series that were seen twice within the window, as rates need."""
    return f"count_over_time({selector}[{_RATE_WINDOW}]) >= 2"
