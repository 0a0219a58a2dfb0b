"""A router's metrics on a port of their own, told to the directory."""

import asyncio
from typing import Any

import aiohttp
import pytest

from cluster.config import parse_config
from deployments.messages import ROUTER, ServiceReport
from deployments.router.core import RouterCore, RouterSettings
from deployments.router.pages.metrics_port import MetricsPort


class Directory:
    """What a port tells the directory."""

    def __init__(self) -> None:
        self.reports: list[ServiceReport] = []
        self.calls: list[tuple[Any, ...]] = []

    async def keep_reporting(self, method: str, make: Any) -> None:
        assert method == "report_service"
        self.reports.append(await make())
        await asyncio.Event().wait()

    async def call(self, *arguments: Any) -> None:
        self.calls.append(arguments)


async def test_it_serves_metrics_says_where_and_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_HOST", "127.0.0.1")
    config = parse_config(
        "models: {sim: {source: simulated}}\npools: {decode: {model: sim, engine: {kind: simulated}}}"
    )
    core = RouterCore(config, RouterSettings(state_dir="", admin_key=""), router_id="router-1")
    directory = Directory()
    port = MetricsPort(core, directory)  # type: ignore[arg-type]
    await port.start()
    while not directory.reports:
        await asyncio.sleep(0.01)
    (report,) = directory.reports
    assert (report.service, report.replica_id) == (ROUTER, "router-1")
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{report.url}/metrics") as answer:
            assert answer.status == 200
            assert "tidemill_requests_in_flight 0.0" in await answer.text()
        async with http.get(f"{report.url}/v1/models") as answer:
            assert answer.status == 404
    await port.close()
    assert directory.calls == [("leave", "router-1")]
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"{report.url}/metrics")
