"""Prometheus takes the query of every panel. That they show something is tried on live clusters."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from operators.dashboards.boards import boards

PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian package prometheus)")
def test_every_query_is_promql(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    queries = [query.expr for board in boards() for panel in board.panels for query in panel.queries]
    rules = [
        {"record": f"panel:query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}, width=10_000))
    done = subprocess.run(
        [PROMTOOL, "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout
