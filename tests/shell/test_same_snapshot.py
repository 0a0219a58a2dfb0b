"""The live observer and the simulated provisioner see one world alike, field by field, all the time.

One simulated fleet runs through a crowd, failures and missing hardware. At every decision the live observer
is given what it would get from such a fleet: reports by way of the directory's own state, sums of two routers
as routers count them, and what Serve's REST interface says.
"""

from dataclasses import replace

import pytest

from cluster.config import parse_config
from cluster.entities.fleet import ReplicaStage
from cluster.entities.performance import Provenance
from cluster.performance.profiles import pool_performance
from cluster.simulation import run
from cluster.simulation.control import Control
from cluster.simulation.faults import HardwareLost, ReplicaFailure
from cluster.simulation.run import Simulation
from cluster.simulation.scenario import Scenario
from deployments.directory.state import DirectoryState
from deployments.router.fleet.demand import RouterDemand
from operators.provisioner.observer import Observer, without_engine_details
from operators.provisioner.serve_api import ServePool, ServeReplica
from tests.simulation.shaped import flash_crowd, shaped

CONFIG = parse_config("""
models:
  m: {source: s, architecture: llama-3.1-8b, slo: {ttft_s: 2.0, tpot_s: 0.1, attainment: 0.95}}
  n: {source: s, architecture: llama-3.1-8b}
pools:
  h100: {model: m, gpu_type: H100, replicas: {min: 0, max: 4, initial: 2}, max_concurrent_requests: 128}
  a100: {model: m, gpu_type: A100, replicas: {min: 0, max: 6, initial: 1}, max_concurrent_requests: 32}
  n-prefill: {model: n, role: prefill, gpu_type: H100, replicas: {min: 1, max: 2}}
  n-decode: {model: n, role: decode, gpu_type: L4, replicas: {min: 1, max: 3}, max_concurrent_requests: 8}
# Both pools of m are to be busy.
routing: {replicas: {energy_slack_s: 0}}
provisioning:
  period_s: 5
  forecast: {half_life_s: 60}
  damping: {scale_down_window_s: 60, cool_down_down_s: 10, unplaceable_after_s: 40, unplaceable_retry_s: 120}
""")
STARTED_AT_S = 1_700_000_000.0
pytestmark = pytest.mark.slow

DURATION_S = 600.0


class CountedTwice:
    """The world's tally, and the routers that count the same requests in turns."""

    def __init__(self, tally):
        self.routers = [RouterDemand(CONFIG, f"router-{number}") for number in range(2)]
        self._tally = tally
        self._turn = 0

    def arrived(self, *request):
        self._turn += 1
        self._tally.arrived(*request)
        self.routers[self._turn % 2].arrived(*request)

    def completed(self, *request, slo_met):
        self._tally.completed(*request, slo_met=slo_met)
        self.routers[self._turn % 2]._tally.completed(*request, slo_met=slo_met)

    def take(self, started_at_s, ended_at_s):
        return self._tally.take(started_at_s, ended_at_s)


def _serve(pool, wall_s):
    """What Serve would say of a simulated pool."""

    def replica(name, at_s, *, placed=True):
        return ServeReplica(
            replica_id=name.removeprefix(f"{pool.name}-"), started_at_s=wall_s + at_s, placed=placed
        )

    existing = [replica(ready.replica_id, ready.started_at_s) for ready in pool.ready]
    existing += [replica(starting.replica_id, starting.asked_at_s) for starting in pool.starting]
    missing = pool.wanted - len(existing)
    existing += [
        replica(f"waiting-{number:05d}", pool.unplaced_since_s, placed=False) for number in range(missing)
    ]
    return ServePool(deployment="Pool", replicas_wanted=pool.wanted, existing=tuple(existing))


class WatchedControl(Control):
    """Looks at the fleet through the live observer as well, at the same instants."""

    def __init__(self, world, policy):
        super().__init__(world, policy)
        self.observer = Observer(world.config)
        self.directory = DirectoryState(version=0)
        self.pairs = []
        world.tally = CountedTwice(world.tally)
        self.snapshot()

    def snapshot(self):
        simulated = super().snapshot()
        world = self._world
        now_s, wall_s = world.now_s, world.wall_s
        present = [r for pool in world.pools.values() for r in (*pool.ready, *pool.draining)]
        known = {report.replica_id for report in self.directory.overview(now_s=now_s).replicas}
        for gone in known - {replica.replica_id for replica in present}:
            self.directory.leave(gone, now_s=now_s)
        for replica in reversed(present):
            self.directory.report(replica.report(now_s, wall_s), now_s=now_s)
        waiting = {model: len(queue) for model, queue in world.router.queues.items()}
        for router, queues in zip(world.tally.routers, (waiting, {}), strict=True):
            self.directory.report_demand(router.report(queues), now_s=now_s)
        live = self.observer.look(
            self.directory.overview(now_s=now_s),
            {name: _serve(pool, wall_s) for name, pool in world.pools.items()},
            now_s=wall_s + now_s,
        )
        self.observer.accept()
        self.pairs.append((simulated, live.snapshot))
        return simulated


@pytest.fixture(scope="module")
def watched():
    crowd = flash_crowd(low=4.0, high=60.0, at_s=120.0, lasts_s=150.0)
    traces = {
        "m": shaped(crowd, rate_max_per_s=60.0, duration_s=DURATION_S, seed=1),
        "n": shaped(lambda _: 1.0, rate_max_per_s=1.0, duration_s=DURATION_S, seed=2),
    }
    slower = {
        name: replace(found, step_base_s=found.step_base_s * 1.5, start_s=20.0)
        for name, pool in CONFIG.pools.items()
        for found in (pool_performance(pool, CONFIG.models[pool.model]),)
    }
    scenario = Scenario(
        config=CONFIG,
        traces=traces,
        as_live=True,
        performance=slower,
        started_at_unix_s=STARTED_AT_S,
        faults=(
            ReplicaFailure(at_s=63.0, pool="h100"),
            HardwareLost(at_s=130.0, until_s=330.0, gpu_type="A100"),
            ReplicaFailure(at_s=400.0, pool="n-prefill"),
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Control", WatchedControl)
        simulation = Simulation(scenario)
        simulation.run()
    return simulation


def test_both_see_the_same_at_every_decision(watched):
    pairs = watched.control.pairs
    assert len(pairs) > DURATION_S / CONFIG.provisioning.period_s
    for simulated, live in pairs:
        assert live.demand == simulated.demand
        assert live.backlog == simulated.backlog
        for found, told in zip(live.pools, simulated.pools, strict=True):
            for name in told.__dataclass_fields__:
                where = (simulated.observed_at_s - STARTED_AT_S, told.pool, name)
                assert getattr(found, name) == getattr(told, name), where
        assert live == simulated
        assert without_engine_details(live) == without_engine_details(simulated)


def test_there_was_something_to_see(watched):
    seen = [live for _, live in watched.control.pairs]
    pools = [pool for snapshot in seen for pool in snapshot.pools]
    assert {replica.stage for pool in pools for replica in pool.replicas} == set(ReplicaStage)
    assert any(snapshot.backlog for snapshot in seen)
    assert any(pool.unplaced_since_s is not None for pool in pools), "hardware was missing"
    assert any(pool.power_w for pool in pools)
    assert {pool.performance.provenance for pool in seen[-1].pools} >= {Provenance.REFIT}, "speed was learnt"
    assert {pool.pool for pool in pools if pool.count(ReplicaStage.READY) > 1} >= {"a100", "h100"}
    arrived = sum(demand.arrivals for snapshot in seen for demand in snapshot.demand.classes)
    assert 0 <= len(watched.world.requests) - arrived < 200, "what came after the last look"


def test_the_provisioner_learns_how_slow_its_replicas_really_are(watched):
    """All engines are half again as slow at the base of a step as the catalogue believes."""
    believed = {pool.pool: pool.performance for pool in watched.control.pairs[-1][1].pools}
    for name in ("h100", "a100"):
        true = watched.world.pools[name].performance
        catalogue = pool_performance(CONFIG.pools[name], CONFIG.models["m"])

        def step_s(found):
            return found.step_base_s + 8 * found.step_per_sequence_s + 4000 * found.step_per_context_token_s

        assert step_s(believed[name]) == pytest.approx(step_s(true), rel=0.1)
        assert step_s(believed[name]) > 1.2 * step_s(catalogue)
