"""Dashboards as Grafana's JSON."""

import string
from typing import Any

from operators.dashboards.boards import boards
from operators.dashboards.panel import Board, Panel
from operators.dashboards.schema import (
    AnyPanel,
    Custom,
    Dashboard,
    FieldConfig,
    FieldDefaults,
    GridPosition,
    RowPanel,
    Stacking,
    StatPanel,
    Target,
    Templating,
    TimeRange,
    TimeseriesPanel,
    Variable,
)

UID_PREFIX = "tidemill-"
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24


def rendered() -> dict[str, dict[str, Any]]:
    """Every dashboard's JSON by its name."""
    return {
        board.name: dashboard(board).model_dump(mode="json", by_alias=True, exclude_none=True)
        for board in boards()
    }


def dashboard(board: Board) -> Dashboard:
    """One dashboard, three panels a line below each heading."""
    panels: list[AnyPanel] = []
    y = 0
    for row in board.rows:
        panels.append(
            RowPanel(id=len(panels) + 1, title=row.title, gridPos=GridPosition(h=1, w=_COLUMNS, x=0, y=y))
        )
        y += 1
        for place, panel in enumerate(row.panels):
            line, column = divmod(place, _COLUMNS // _WIDTH)
            position = GridPosition(h=_HEIGHT, w=_WIDTH, x=column * _WIDTH, y=y + line * _HEIGHT)
            panels.append(_panel(panel, len(panels) + 1, position))
        y += -(-len(row.panels) * _WIDTH // _COLUMNS) * _HEIGHT
    return Dashboard(
        uid=UID_PREFIX + board.name,
        title=board.title,
        tags=["tidemill"],
        time=TimeRange(begin="now-1h"),
        templating=Templating(variables=[Variable()]),
        panels=panels,
    )


def _panel(panel: Panel, number: int, position: GridPosition) -> TimeseriesPanel | StatPanel:
    targets = [
        Target(expr=query.expr, legendFormat=query.legend, refId=letter)
        for letter, query in zip(string.ascii_uppercase, panel.queries, strict=False)
    ]
    if panel.kind == "stat":
        return StatPanel(
            id=number,
            title=panel.title,
            description=panel.description,
            gridPos=position,
            fieldConfig=FieldConfig(defaults=FieldDefaults(unit=panel.unit)),
            targets=targets,
        )
    custom = Custom(
        fillOpacity=30 if panel.stacked else 10,
        stacking=Stacking(mode="normal" if panel.stacked else "none"),
    )
    return TimeseriesPanel(
        id=number,
        title=panel.title,
        description=panel.description,
        gridPos=position,
        fieldConfig=FieldConfig(defaults=FieldDefaults(unit=panel.unit, min=0, custom=custom)),
        targets=targets,
    )
