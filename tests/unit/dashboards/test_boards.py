"""Every metric has a panel, and what is written is what Grafana reads."""

import copy

import pytest
from pydantic import ValidationError

from cluster.metrics import AREAS, CATALOGUE, Metric
from operators.dashboards.boards import boards
from operators.dashboards.panel import panel_of
from operators.dashboards.render import rendered
from operators.dashboards.schema import Dashboard

NAMES = {metric.name for metric in CATALOGUE}


def test_every_metric_is_on_some_dashboard() -> None:
    shown = {name for board in boards() for panel in board.panels for name in panel.metrics}
    assert shown >= NAMES


def test_panels_show_nothing_that_does_not_exist() -> None:
    for board in boards():
        for panel in board.panels:
            assert panel.metrics & NAMES or all("tidemill_" not in query.expr for query in panel.queries)
            unknown = {name for name in panel.metrics if name not in NAMES and not _is_part(name)}
            assert not unknown, f"{board.name}: {panel.title}"


def _is_part(name: str) -> bool:
    return any(name == f"{known}{suffix}" for known in NAMES for suffix in ("_bucket", "_sum", "_count"))


def test_the_dashboards_that_were_asked_for_are_there() -> None:
    assert {"fleet", "requests", "cache", "adapters", "provisioner"} <= {board.name for board in boards()}


def test_titles_within_a_row_differ() -> None:
    for board in boards():
        for row in board.rows:
            titles = [panel.title for panel in row.panels]
            assert len(set(titles)) == len(titles), f"{board.name}: {row.title}"


def test_an_area_without_a_dashboard_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AREAS, "tide_tables", (Metric("tidemill_tides_total", "counter", "Tides."),))
    assert "tide-tables" in {board.name for board in boards()}


def test_json_is_read_back_equal() -> None:
    for name, content in rendered().items():
        again = Dashboard.model_validate(content).model_dump(mode="json", by_alias=True, exclude_none=True)
        assert again == content, name
        assert content["time"] == {"from": "now-1h", "to": "now"}
        assert content["templating"]["list"][0]["type"] == "datasource"


def _broken() -> list[tuple[str, dict]]:
    whole = rendered()["fleet"]

    def changed(change) -> dict:
        content = copy.deepcopy(whole)
        change(content)
        return content

    return [
        ("an unknown field", changed(lambda d: d.update(panel=[]))),
        ("no title", changed(lambda d: d.pop("title"))),
        ("a uid that is too long", changed(lambda d: d.update(uid="x" * 41))),
        ("another schema", changed(lambda d: d.update(schemaVersion=16))),
        ("a panel twice", changed(lambda d: d["panels"][1].update(id=1))),
        ("a panel over another", changed(lambda d: d["panels"][2].update(gridPos=d["panels"][1]["gridPos"]))),
        ("a panel beside the page", changed(lambda d: d["panels"][1]["gridPos"].update(x=20))),
        ("an empty query", changed(lambda d: d["panels"][1]["targets"][0].update(expr=""))),
        ("a query without a letter", changed(lambda d: d["panels"][1]["targets"][0].pop("refId"))),
        ("an unknown kind of panel", changed(lambda d: d["panels"][1].update(type="graph"))),
        ("text for a number", changed(lambda d: d["panels"][1].update(id="1"))),
    ]


@pytest.mark.parametrize(("what", "content"), _broken(), ids=[what for what, _ in _broken()])
def test_the_schema_refuses(what: str, content: dict) -> None:
    del what
    with pytest.raises(ValidationError):
        Dashboard.model_validate(content)


@pytest.mark.parametrize(
    ("metric", "expr", "unit"),
    [
        (
            Metric("tidemill_x_joules_total", "counter", "X.", ("pool",)),
            "sum by (pool) (rate(tidemill_x_joules_total[$__rate_interval]))",
            "watt",
        ),
        (Metric("tidemill_x_bytes", "gauge", "X."), "sum(tidemill_x_bytes)", "bytes"),
        (
            Metric("tidemill_x_watts", "gauge", "X.", ("pool",), everywhere=True),
            "max by (pool) (tidemill_x_watts)",
            "watt",
        ),
        (
            Metric("tidemill_x_seconds", "histogram", "X.", (), (1.0,)),
            "histogram_quantile(0.5, sum by (le) (rate(tidemill_x_seconds_bucket[$__rate_interval])))",
            "s",
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_metric_is_shown_by_its_kind(metric: Metric, expr: str, unit: str) -> None:
    panel = panel_of(metric)
    assert panel.queries[0].expr == expr
    assert panel.unit == unit
