"""The Locust scenarios, run headless against the simulated engine; skipped where Locust is not installed."""

import asyncio
import csv
import os
import shutil
from pathlib import Path

import pytest

from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import Role
from deployments.engine.simulated import SimulatedApp
from deployments.http_port import HttpPort

LOCUST = os.environ.get("LOCUST") or shutil.which("locust")
FILE = Path(__file__).parents[3] / "load_tests" / "locustfile.py"

pytestmark = pytest.mark.skipif(
    LOCUST is None, reason="no locust here (its own environment; LOCUST names it)"
)


async def test_scenarios_report_first_tokens_and_gaps(tmp_path):
    config = SimulatedEngine(prefill_tokens_per_s=1e6, step_base_s=0.002, step_per_sequence_s=0)
    port = HttpPort(SimulatedApp(config, model="sim", role=Role.COMBINED).app, host="127.0.0.1")
    await port.start()
    process = await asyncio.create_subprocess_exec(
        *(LOCUST, "-f", str(FILE), "--headless", "--host", port.url, "-u", "6", "-r", "6", "-t", "5s"),
        *("--csv", str(tmp_path / "run"), "--only-summary"),
        env={**os.environ, "TIDEMILL_MODEL": "sim"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    await port.stop(grace_s=0.5)
    assert process.returncode == 0, said.decode()
    with (tmp_path / "run_stats.csv").open() as file:
        rows = {(row["Type"], row["Name"]): row for row in csv.DictReader(file)}
    for kind in ("TTFT", "TPOT", "E2E"):
        assert int(rows[kind, "chat"]["Request Count"]) > 0
        assert rows[kind, "chat"]["Failure Count"] == "0"
    assert float(rows["TTFT", "chat"]["Median Response Time"]) <= float(
        rows["E2E", "chat"]["Median Response Time"]
    )
