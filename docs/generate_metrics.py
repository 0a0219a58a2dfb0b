# ruff: noqa: INP001 - documentation, not a package of the application
"""Writes the catalogue's table into docs/metrics.md, so that the page cannot disagree with the code.

Run from the root of the checkout: `python -m docs.generate_metrics`. What is around the table is written by
hand.
"""

import re
from pathlib import Path

from cluster.metrics import AREAS, Metric
from operators.dashboards.boards import boards

PAGE = Path(__file__).parent / "metrics.md"
_BEGIN = "<!-- Generated: python -m docs.generate_metrics -->"
_END = "<!-- End of what is generated -->"


def metrics_page(page: str) -> str:
    """The page with the table as the code says it."""
    begin, end = re.escape(_BEGIN), re.escape(_END)
    table = f"{_BEGIN}\n\n{_table()}\n\n{_END}"
    return re.sub(rf"{begin}.*?{end}", lambda _: table, page, count=1, flags=re.DOTALL)


def _table() -> str:
    lines = ["| name | kind | unit | labels | dashboard | meaning |", "|---|---|---|---|---|---|"]
    lines += [_row(metric) for area in AREAS.values() for metric in area]
    return "\n".join(lines)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    unit = metric.unit.replace("_", " ")
    cells = (f"`{metric.name}`", metric.kind, unit, labels, _board(metric), metric.help.replace("|", "\\|"))
    return f"| {' | '.join(cells)} |"


def _board(metric: Metric) -> str:
    """The dashboard that has a panel for it alone."""
    for board in boards():
        for row in board.rows:
            if row.title.startswith("Every metric") and any(metric.name in p.metrics for p in row.panels):
                return board.title.removeprefix("Tidemill: ")
    return ""


if __name__ == "__main__":
    PAGE.write_text(metrics_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
