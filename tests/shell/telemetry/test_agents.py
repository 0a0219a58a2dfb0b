"""Which nodes have an agent that reads their meters, after every change."""

import asyncio
from types import SimpleNamespace

import pytest

from cluster.config.telemetry import TelemetryConfig
from deployments.directory.actor import NAMESPACE
from operators.telemetry import agent


class NamedActors:
    """What Ray knows of named actors and nodes; starting and killing them is noted at once."""

    def __init__(self):
        self.names = {"tidemill-directory"}
        self.alive = ["n1", "n2", "n3"]
        self.exceptions = SimpleNamespace(RayError=RuntimeError)
        self.util = SimpleNamespace(list_named_actors=self.listed)

    def nodes(self):
        return [{"NodeID": node, "Alive": True} for node in self.alive]

    def listed(self, *, all_namespaces):
        assert all_namespaces
        others = [{"name": "tidemill-telemetry-n1", "namespace": "somebody-else"}]
        return [{"name": name, "namespace": NAMESPACE} for name in sorted(self.names)] + others

    def get_actor(self, name, namespace):
        assert namespace == NAMESPACE
        return name

    def kill(self, name):
        self.names.remove(name)

    def remote(self, _kind):
        def options(*, name, **_):
            return SimpleNamespace(remote=lambda _config: self.names.add(name))

        return SimpleNamespace(options=options)

    @property
    def metered(self):
        prefix = "tidemill-telemetry-"
        return {name.removeprefix(prefix) for name in self.names if name.startswith(prefix)}


@pytest.fixture
def ray(monkeypatch):
    actors = NamedActors()
    monkeypatch.setattr(agent, "ray", actors)
    monkeypatch.setattr(agent, "NodeAffinitySchedulingStrategy", lambda node_id, *, soft: (node_id, soft))
    return actors


def test_nodes_that_serve_have_one_and_no_others(ray):
    agent.ensure_agents(TelemetryConfig(), {"n1", "n2", "gone"})
    assert ray.metered == {"n1", "n2"}
    agent.ensure_agents(TelemetryConfig(), {"n2", "n3"})
    assert ray.metered == {"n2", "n3"}
    assert "tidemill-directory" in ray.names


def test_where_nothing_is_to_be_metered_none_stays_and_keeps_its_node_awake(ray):
    agent.ensure_agents(TelemetryConfig(), {"n1", "n2"})
    agent.ensure_agents(TelemetryConfig(enabled=False), {"n1", "n2"})
    assert ray.metered == set()


def test_a_new_provisioner_finds_none_of_another_configuration(ray):
    agent.ensure_agents(TelemetryConfig(), {"n1", "n2"})
    agent.end_agents()
    assert ray.metered == set()
    assert ray.names == {"tidemill-directory"}


class MetersThatFailOnce:
    """The first reading ends in an error that nobody foresaw."""

    def __init__(self, _config):
        self.samples = 0

    def sample(self):
        self.samples += 1
        if self.samples == 1:
            raise RuntimeError("the binding has a defect")

    def report(self, node_id):
        return node_id


class SilentDirectory:
    async def keep_reporting(self, _method, make, **_):
        await make()


async def test_readings_go_on_after_an_error_that_nobody_foresaw(ray, monkeypatch, caplog):
    ray.get_runtime_context = lambda: SimpleNamespace(get_node_id=lambda: "n1")
    monkeypatch.setattr(agent, "NodeMeters", MetersThatFailOnce)
    monkeypatch.setattr(agent, "DirectoryClient", SilentDirectory)
    running = agent.TelemetryAgent(TelemetryConfig(sample_period_s=0.001))
    async with asyncio.timeout(5.0):
        while running._meters.samples < 3:
            await asyncio.sleep(0.001)
    assert "the binding has a defect" in caplog.text
    for task in running._tasks:
        task.cancel()
