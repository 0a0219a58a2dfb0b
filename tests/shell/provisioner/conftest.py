"""A cluster of fakes around the real loop, observer, policy and journal; any part of it can fail."""

from collections import deque

import pytest

from cluster.config import parse_config
from cluster.entities.pool import EngineCounters, ReplicaPhase, ReplicaReport
from cluster.policy.provisioning.policies import policy_named
from deployments.messages import FleetOverview
from deployments.router.fleet.demand import RouterDemand
from operators.provisioner.journal import Journal
from operators.provisioner.loop import ProvisionerLoop
from operators.provisioner.nodes import NodeBundle
from operators.provisioner.observer import Observer
from operators.provisioner.serve_api import ServeApiError, ServePool, ServeReplica

CONFIG = """
models:
  m: {source: s, architecture: llama-3.1-8b, slo: {ttft_s: 2.0, tpot_s: 0.1, attainment: 0.95}}
pools:
  h100:
    model: m
    gpu_type: H100
    replicas: {min: 0, max: 4, initial: 1}
    max_concurrent_requests: 128
    resources: {cpus: 2, gpus: 1, node_labels: {ray.io/accelerator-type: H100}}
  a100:
    model: m
    gpu_type: A100
    replicas: {min: 0, max: 8}
    max_concurrent_requests: 64
    resources: {cpus: 2, gpus: 1, custom: {a100: 1}}
provisioning:
  period_s: 5
  forecast: {half_life_s: 30, horizon_s_min: 10}
  damping:
    scale_down_window_s: 30
    cool_down_down_s: 5
    unplaceable_after_s: 30
    unplaceable_retry_s: 300
    stale_after_s: 15
"""
PERIOD_S = 5.0
START_S = 4.0


class FakeCluster:
    """Directory, Serve and autoscaler in one: does what it is told, and says what happened."""

    def __init__(self, config):
        self.config = config
        self.now_s = 1_700_000_000.0
        self.wanted = {name: pool.replicas.start for name, pool in config.pools.items()}
        self.placeable = {name: pool.replicas.max for name, pool in config.pools.items()}
        self.replicas = {name: [] for name in config.pools}  # (id, asked for at, is placed)
        self.number = 0
        self.router = RouterDemand(config, "router")
        self.rate_per_s = 0.0
        self.energy = ()
        self.reported_at_s = None
        """Reports stay as they were at this instant; None: they are fresh."""
        self.behind_s = 0.0
        """By how much the clocks of the nodes are slow; the directory tells how old reports are."""
        self.calls = []
        self.published = []
        self.failing = {}
        """Exceptions by name of a call, or of a call and a pool; raised for as long as they stand here."""
        self.settle(started_before_s=100.0)

    # The world goes on

    def settle(self, *, started_before_s=0.0):
        for name, wanted in self.wanted.items():
            found = self.replicas[name]
            while len(found) < wanted:
                self.number += 1
                found.append([f"{self.number:03d}", self.now_s - started_before_s, False])
            del found[wanted:]
            for place, replica in enumerate(found):
                replica[2] = place < self.placeable[name]

    def advance(self, span_s=PERIOD_S):
        for _ in range(round(self.rate_per_s * span_s)):
            self.router.arrived("m", 400)
            self.router._tally.completed("m", 400, 0, 150, slo_met=True)
        self.now_s += span_s

    def report(self, name, replica, *, at_s):
        gpu = self.config.pools[name].gpu_type
        busy_s = (at_s - 1_699_999_000.0) * 4.0  # four sequences, always
        return ReplicaReport(
            replica_id=f"{name}-{replica[0]}",
            pool=name,
            role=self.config.pools[name].role,
            model="m",
            gpu_type=gpu,
            url=f"http://{name}-{replica[0]}",
            phase=ReplicaPhase.READY,
            observed_at_s=at_s - self.behind_s,
            started_at_s=replica[1] + START_S - self.behind_s,
            requests_running=4,
            node_id=f"node-{name}-{replica[0]}",
            gpus=("0",),
            counters=EngineCounters(
                output_tokens=int(busy_s * 50), token_gaps=int(busy_s * 50), token_gaps_s=busy_s
            ),
        )

    def reports(self):
        at_s = self.now_s if self.reported_at_s is None else self.reported_at_s
        return tuple(
            self.report(name, replica, at_s=at_s)
            for name, found in self.replicas.items()
            for replica in found
            if replica[2] and self.now_s - replica[1] >= START_S
        )

    # What the loop calls

    def _call(self, *what):
        for key in (what[0], what[:2]):
            if key in self.failing:
                raise self.failing[key]
        self.calls.append(what)

    async def overview(self):
        self._call("overview")
        reports = self.reports()
        age_s = 0.0 if self.reported_at_s is None else self.now_s - self.reported_at_s
        return FleetOverview(
            replicas=reports,
            demand=(self.router.report({}),),
            energy=tuple(self.energy),
            ages_s={report.replica_id: age_s for report in reports},
        )

    async def publish(self, plan):
        self._call("publish")
        self.published.append(plan)

    async def pools(self, names):
        self._call("pools")
        return {
            name: ServePool(
                deployment="Combined",
                replicas_wanted=self.wanted[name],
                existing=tuple(
                    ServeReplica(replica_id=replica[0], started_at_s=replica[1], placed=replica[2])
                    for replica in self.replicas[name]
                ),
            )
            for name in names
        }

    async def scale(self, pool, deployment, replicas):
        self._call("scale", pool, replicas)
        assert deployment == "Combined"
        self.wanted[pool] = replicas
        self.settle()

    async def request(self, bundles):
        self._call("request", len(bundles))
        self.bundles = bundles

    def told(self, name):
        """What was asked by calls of one name, oldest first."""
        return [call[1:] for call in self.calls if call[0] == name]


class Provisioner:
    """The real loop on a fake cluster."""

    a100 = (NodeBundle(resources={"CPU": 2, "GPU": 1, "a100": 1}),)

    def __init__(self, cluster, folder):
        self.cluster = cluster
        self.folder = folder
        self.looked = False
        self.start()

    def start(self):
        """A new life, as after a crash: only the folder is what it was."""
        config = self.cluster.config
        self.journal = Journal(self.folder, config, config.provisioning.policy)
        self.loop = ProvisionerLoop(
            config,
            policy_named(config.provisioning.policy),
            directory=self.cluster,
            scaler=self.cluster,
            nodes=self.cluster,
            records=self.journal,
            observer=Observer(config),
        )

    async def rounds(self, count=1, *, rate_per_s=None):
        if rate_per_s is not None:
            self.cluster.rate_per_s = rate_per_s
        if not self.looked:
            # A first life's first round only looks.
            self.looked = True
            assert await self.loop.round(self.cluster.now_s) is None
        for _ in range(count):
            self.cluster.advance()
            await self.loop.round(self.cluster.now_s)
        return self.targets

    @property
    def targets(self):
        return {target.pool: target.replicas for target in self.loop.last.plan.pools}

    @property
    def reasons(self):
        return {target.pool: set(target.reasons) for target in self.loop.last.plan.pools}


@pytest.fixture
def config():
    return parse_config(CONFIG)


@pytest.fixture
def cluster(config):
    return FakeCluster(config)


@pytest.fixture
def provisioner(cluster, tmp_path):
    return Provisioner(cluster, tmp_path / "provisioning")


@pytest.fixture
def failures():
    """Exceptions as the real parts raise them."""
    return {
        "overview": ValueError("Failed to look up actor with name 'tidemill-directory'"),
        "pools": ServeApiError("GET http://127.0.0.1:8265: ConnectError"),
        "publish": TimeoutError(),
        "request": RuntimeError("GCS is away"),
    }


@pytest.fixture
def clock(cluster):
    """The world's clock; every look at it takes the world one period on."""
    seen = deque()

    def wall_s():
        cluster.advance()
        seen.append(cluster.now_s)
        return cluster.now_s

    return wall_s
