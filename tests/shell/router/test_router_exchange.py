"""Two routers' pictures, told of each other by way of the directory's actor body, without Ray around it."""

import asyncio

import pytest
import ray

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.pool import PoolName, ReplicaId, Role
from cluster.entities.workload import RequestSignals, Surface
from deployments.directory import actor
from deployments.directory.actor import DirectoryClient, FleetDirectory
from deployments.messages import FleetState
from deployments.router.fleet.view import FleetPicture
from tests.replica_reports import replica_report

SIGNALS = RequestSignals(
    surface=Surface.CHAT,
    model="sim",
    tenant="t",
    prompt_tokens=100,
    block_hashes=tuple(range(10)),
    block_tokens=10,
)


class NearbyClient(DirectoryClient):
    """Calls a directory in this process; it may be away for a number of calls."""

    def __init__(self, directory, *, away=0):
        super().__init__()
        self._directory = directory
        self.away = away

    async def call(self, method, *args):
        if self.away:
            self.away -= 1
            raise ray.exceptions.RayActorError
        return await getattr(self._directory, method)(*args)


@pytest.fixture
async def directory():
    made = FleetDirectory()
    yield made
    made._expiry.cancel()


@pytest.fixture
async def exchanging():
    tasks = []

    def start(client, name, picture):
        work = client.keep_exchanging(name, picture.share, picture.hear, period_s=0.01)
        tasks.append(asyncio.create_task(work))

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def picture():
    found = FleetPicture(ReplicaRoutingConfig(), shared=True, now_s=asyncio.get_running_loop().time)
    replica = replica_report(pool=PoolName("p"), role=Role.COMBINED)
    found.apply(FleetState(version=1, replicas=(replica,)))
    return found


def seen(found):
    (view,) = found.views(SIGNALS, {Role.COMBINED})
    return view


async def until(condition):
    async with asyncio.timeout(5.0):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_router_sees_what_another_sent_and_what_came_of_it(directory, exchanging):
    one, other = picture(), picture()
    exchanging(NearbyClient(directory), "one", one)
    exchanging(NearbyClient(directory), "other", other)
    dispatch = one.dispatch(ReplicaId("a"), SIGNALS, computed_elsewhere=False)
    await until(lambda: seen(other).pending_prefill_tokens == 100)
    assert seen(one).requests_in_flight == 1, "its own are not told back to it"
    dispatch.first_token()
    await until(lambda: seen(other).cached_tokens == 100)
    dispatch.release()
    await until(lambda: seen(other).requests_in_flight == 0)


async def test_exchange_goes_on_after_the_directory_was_away(directory, exchanging, monkeypatch):
    monkeypatch.setattr(actor, "_RETRY_S", 0.01)
    one, other = picture(), picture()
    exchanging(NearbyClient(directory, away=3), "one", one)
    exchanging(NearbyClient(directory), "other", other)
    one.dispatch(ReplicaId("a"), SIGNALS, computed_elsewhere=False)
    await until(lambda: seen(other).requests_in_flight == 1)


async def test_a_router_that_says_goodbye_is_not_counted_any_more(directory, exchanging):
    gone, other = picture(), picture()
    gone.dispatch(ReplicaId("a"), SIGNALS, computed_elsewhere=False)
    await directory.exchange("gone", gone.share())
    exchanging(NearbyClient(directory), "other", other)
    await until(lambda: seen(other).requests_in_flight == 1)
    await directory.unwatch("gone")
    await until(lambda: seen(other).requests_in_flight == 0)
