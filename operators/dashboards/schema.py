"""The part of Grafana's dashboard JSON (schema version 39, read by Grafana 10.2 and later) that we emit.

Strict, so that a misspelt or forgotten field is found here and not on somebody's empty dashboard.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Uid = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,40}$")]
"""Grafana refuses longer ones."""
_COLUMNS = 24


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_by_name=True)


class DataSource(_Strict):
    """Which data source a panel asks: the one chosen on the page."""

    type: Literal["prometheus"] = "prometheus"
    uid: str = "${datasource}"


class GridPosition(_Strict):
    """Where a panel is, in columns and rows."""

    h: int = Field(ge=1)
    w: int = Field(ge=1, le=_COLUMNS)
    x: int = Field(ge=0, lt=_COLUMNS)
    y: int = Field(ge=0)


class Target(_Strict):
    """One query."""

    datasource: DataSource = DataSource()
    expr: str = Field(min_length=1)
    legendFormat: str = ""
    refId: str = Field(min_length=1)
    editorMode: Literal["code"] = "code"
    range: bool = True


class Stacking(_Strict):
    """Whether lines stand on each other."""

    mode: Literal["none", "normal"]
    group: str = "A"


class Custom(_Strict):
    """How lines are drawn."""

    drawStyle: Literal["line"] = "line"
    fillOpacity: int = 10
    lineWidth: int = 1
    showPoints: Literal["never"] = "never"
    stacking: Stacking


class FieldDefaults(_Strict):
    """Of all series of a panel."""

    unit: str
    min: int | None = None
    custom: Custom | None = None


class FieldConfig(_Strict):
    """What Grafana calls so."""

    defaults: FieldDefaults
    overrides: list[None] = Field(default_factory=list, max_length=0)


class Legend(_Strict):
    """Below the picture."""

    displayMode: Literal["list"] = "list"
    placement: Literal["bottom"] = "bottom"
    showLegend: bool = True


class Tooltip(_Strict):
    """Shows all series at once."""

    mode: Literal["multi"] = "multi"
    sort: Literal["desc"] = "desc"


class TimeseriesOptions(_Strict):
    """Of lines."""

    legend: Legend = Legend()
    tooltip: Tooltip = Tooltip()


class ReduceOptions(_Strict):
    """Which value a number shows."""

    calcs: list[str] = Field(default=["lastNotNull"], min_length=1)
    fields: str = ""
    values: bool = False


class StatOptions(_Strict):
    """Of one number."""

    reduceOptions: ReduceOptions = ReduceOptions()
    colorMode: Literal["value"] = "value"
    graphMode: Literal["area"] = "area"


class TimeseriesPanel(_Strict):
    """Lines over time."""

    id: int = Field(ge=1)
    type: Literal["timeseries"] = "timeseries"
    title: str = Field(min_length=1)
    description: str = ""
    datasource: DataSource = DataSource()
    gridPos: GridPosition
    fieldConfig: FieldConfig
    options: TimeseriesOptions = TimeseriesOptions()
    targets: list[Target] = Field(min_length=1)


class StatPanel(_Strict):
    """One number."""

    id: int = Field(ge=1)
    type: Literal["stat"] = "stat"
    title: str = Field(min_length=1)
    description: str = ""
    datasource: DataSource = DataSource()
    gridPos: GridPosition
    fieldConfig: FieldConfig
    options: StatOptions = StatOptions()
    targets: list[Target] = Field(min_length=1)


class RowPanel(_Strict):
    """A heading; the panels below it stand beside it in the list."""

    id: int = Field(ge=1)
    type: Literal["row"] = "row"
    title: str = Field(min_length=1)
    collapsed: Literal[False] = False
    gridPos: GridPosition
    panels: list[None] = Field(default_factory=list, max_length=0)


AnyPanel = Annotated[TimeseriesPanel | StatPanel | RowPanel, Field(discriminator="type")]


class Variable(_Strict):
    """The choice of a data source on top of the page."""

    name: Literal["datasource"] = "datasource"
    type: Literal["datasource"] = "datasource"
    label: str = "Data source"
    query: Literal["prometheus"] = "prometheus"
    refresh: int = 1
    hide: int = 0
    includeAll: bool = False
    multi: bool = False
    regex: str = ""


class Templating(_Strict):
    """Variables."""

    variables: list[Variable] = Field(alias="list")


class Annotations(_Strict):
    """None of ours."""

    entries: list[None] = Field(default_factory=list, max_length=0, alias="list")


class TimeRange(_Strict):
    """What is shown first."""

    begin: str = Field(alias="from")
    end: str = Field(default="now", alias="to")


class Dashboard(_Strict):
    """A whole dashboard."""

    uid: Uid
    title: str = Field(min_length=1)
    description: str = ""
    tags: list[str]
    timezone: Literal["browser"] = "browser"
    editable: bool = True
    graphTooltip: int = Field(default=1, ge=0, le=2)
    schemaVersion: Literal[39] = 39
    refresh: str = "10s"
    time: TimeRange
    templating: Templating
    annotations: Annotations = Annotations()
    panels: list[AnyPanel] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> "Dashboard":
        ids = [panel.id for panel in self.panels]
        if len(set(ids)) != len(ids):
            raise ValueError("two panels have one id")
        taken: set[tuple[int, int]] = set()
        for panel in self.panels:
            place = panel.gridPos
            if place.x + place.w > _COLUMNS:
                raise ValueError(f"panel {panel.title!r} does not fit on the page")
            cells = {
                (x, y) for x in range(place.x, place.x + place.w) for y in range(place.y, place.y + place.h)
            }
            if cells & taken:
                raise ValueError(f"panel {panel.title!r} lies on another one")
            taken |= cells
        return self
