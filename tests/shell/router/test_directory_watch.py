"""The directory's actor body as routers and replicas see it, without Ray around it."""

import asyncio
import time
from dataclasses import replace

import pytest

from cluster.entities.pool import ReplicaId, ReplicaPhase
from deployments.directory import actor
from deployments.directory.actor import FleetDirectory
from deployments.messages import ServiceReport
from tests.replica_reports import replica_report

REPORT = replica_report()


@pytest.fixture
async def make_directory(monkeypatch):
    monkeypatch.setattr(actor, "WATCH_TIMEOUT_S", 0.5)
    made = []

    def make(*, filling_s=0.0):
        monkeypatch.setattr(actor, "_FILLING_S", filling_s)
        made.append(FleetDirectory())
        return made[-1]

    yield make
    for directory in made:
        directory._expiry.cancel()


@pytest.fixture
def directory(make_directory):
    return make_directory()


async def test_a_watcher_hears_of_a_change_at_once(directory):
    version = (await directory.watch("r", 0)).version
    watching = asyncio.create_task(directory.watch("r", version))
    await asyncio.sleep(0.01)
    assert not watching.done()
    started_s = time.monotonic()
    await directory.report(REPORT)
    fleet = await watching
    assert time.monotonic() - started_s < 0.3
    assert (fleet.version, fleet.replicas) == (version + 1, (REPORT,))
    service = ServiceReport(service="semantic_cache", replica_id="s", url="http://s", observed_at_s=0.0)
    await directory.report_service(service)
    assert (await directory.watch("r", fleet.version)).services == (service,)


async def test_a_watcher_hears_of_loads_after_a_while_even_if_nothing_changes(directory):
    await directory.report(REPORT)
    version = (await directory.watch("r", 0)).version
    await directory.report(replace(REPORT, requests_running=4))
    fleet = await directory.watch("r", version)
    assert fleet.version == version
    assert fleet.replicas[0].requests_running == 4


async def test_a_drain_returns_when_every_router_has_applied_it(directory):
    await directory.report(REPORT)
    version = (await directory.watch("r", 0)).version
    await directory.watch("r", version - 1)
    watching = asyncio.create_task(directory.watch("r", version))
    draining = asyncio.create_task(directory.drain("a", 5.0))
    fleet = await watching
    assert fleet.replicas[0].phase is ReplicaPhase.DRAINING
    await asyncio.sleep(0.12)
    assert not draining.done()
    applied = asyncio.create_task(directory.watch("r", fleet.version))
    assert await asyncio.wait_for(draining, 1)
    await applied


async def test_a_drain_gives_up_on_a_router_that_does_not_come_back(directory):
    await directory.report(REPORT)
    await directory.watch("r", 0)
    assert not await directory.drain("a", 0.1)
    assert await directory.drain("nobody", 0.1)


async def test_leaving_is_heard_and_final(directory):
    await directory.report(REPORT)
    version = (await directory.watch("r", 0)).version
    await directory.leave("a")
    assert (await directory.watch("r", version)).replicas == ()
    await directory.report(REPORT)
    assert (await directory.watch("r", version)).replicas == ()


async def test_versions_go_on_growing_across_a_restart(make_directory):
    before = make_directory()
    for number in range(3):
        await before.report(replace(REPORT, replica_id=ReplicaId(f"r{number}")))
    await asyncio.sleep(0.005)
    after = make_directory()
    assert after._state.version > before._state.version


async def test_a_restart_does_not_empty_the_routing_tables(make_directory):
    before = make_directory()
    await before.report(REPORT)
    applied = (await before.watch("r", 0)).version
    await asyncio.sleep(0.005)
    after = make_directory(filling_s=0.2)
    watching = asyncio.create_task(after.watch("r", applied))
    await asyncio.sleep(0.05)
    await after.report(REPORT)
    assert [report.replica_id for report in (await watching).replicas] == ["a"]


class LocalClient(actor.DirectoryClient):
    """A client of a directory in this process."""

    def __init__(self, directory):
        super().__init__()
        self._directory = directory

    async def call(self, method, *args):
        return await getattr(self._directory, method)(*args)


async def test_what_goes_wrong_once_with_a_picture_or_a_report_is_not_the_end_of_them(directory, monkeypatch):
    monkeypatch.setattr(actor, "_RETRY_S", 0.01)
    client, applied, tries = LocalClient(directory), asyncio.Event(), 0

    def apply(fleet):
        nonlocal tries
        tries += 1
        if tries == 1:
            raise KeyError("a defect")
        if fleet.replicas:
            applied.set()

    made = 0

    async def make():
        nonlocal made
        made += 1
        if made == 1:
            raise KeyError("another one")
        return REPORT

    tasks = [
        asyncio.create_task(client.watch("r", apply)),
        asyncio.create_task(client.keep_reporting("report", make, period_s=0.01)),
    ]
    async with asyncio.timeout(2.0):
        await applied.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
