"""Several routers: each sees its own dispatches at once, those of the others with the next snapshot."""

import numpy as np
import pytest

from cluster.config import parse_config
from cluster.simulation.run import Simulation, simulate
from cluster.simulation.scenario import Scenario
from cluster.simulation.traffic.synthetic import LengthShape, steady
from cluster.simulation.traffic.trace import Trace

CONFIG = parse_config("""
models: {m: {source: s, architecture: llama-3.1-8b}}
pools: {h100: {model: m, gpu_type: H100, replicas: {min: 4, max: 4}}}
routing: {replicas: {energy_slack_s: 0}}
""")


def _simulation(trace, **more):
    return Simulation(
        Scenario(config=CONFIG, traces={"m": trace}, policy="fixed", check_invariants=True, **more)
    )


def _at(times, prompt_tokens=8000):
    count = len(times)
    return Trace(
        name="t",
        arrival_s=np.array(times, dtype=np.float64),
        prompt_tokens=np.full(count, prompt_tokens),
        output_tokens=np.full(count, 400),
    )


def test_until_the_next_snapshot_a_router_knows_only_what_it_sent_itself():
    # Router 0 and 1 take turns; within the first second neither hears of the other.
    simulation = _simulation(_at([0.0, 0.01, 0.02, 0.03]), routers=2, snapshot_s=1.0)
    world = simulation.world
    world.run(lambda: len(world.requests) == 4)
    mine, others = world.router._routers
    for router, sent in ((mine, (0, 2)), (others, (1, 3))):
        seen = {name: found.requests_in_flight for name, found in router.seen.items()}
        expected = dict.fromkeys(seen, 0)
        for index in sent:
            expected[world.requests[index].answering.replica.replica_id] += 1
        # What was in flight when the router first looked is known to it too.
        assert sum(seen.values()) >= sum(expected.values())
        assert all(seen[name] >= count for name, count in expected.items())
    assert sum(found.requests_in_flight for found in mine.seen.values()) == 2
    world.run(lambda: world.now_s >= 1.0)
    truth = {r.replica_id: r.requests_in_flight for r in world.pools["h100"].ready}
    for router in (mine, others):
        assert {name: found.requests_in_flight for name, found in router.seen.items()} == truth


def test_nothing_is_lost_and_every_count_comes_back():
    trace = steady(rate_per_s=20.0, requests=600, seed=3, prompt=LengthShape(median=2000.0, sigma=1.0))
    simulation = _simulation(trace, routers=3, snapshot_s=0.5)
    report = simulation.run()
    assert report.completed == report.requests == 600
    for replica in simulation.world.pools["h100"].ready:
        counts = (
            replica.requests_in_flight,
            replica.requests_waiting,
            replica.pending_prefill_tokens,
            replica.decode_tokens,
        )
        assert counts == (0, 0, 0, 0)


def test_what_routers_hear_late_costs_time():
    trace = steady(rate_per_s=24.0, requests=1500, seed=5, prompt=LengthShape(median=3000.0, sigma=1.2))

    def mean_ttft_s(**more):
        scenario = Scenario(config=CONFIG, traces={"m": trace}, policy="fixed", **more)
        return simulate(scenario).ttft_s["mean"]

    alone, late = mean_ttft_s(), mean_ttft_s(routers=4, snapshot_s=5.0)
    assert mean_ttft_s(routers=1, snapshot_s=5.0) == pytest.approx(alone)
    assert late > 1.02 * alone
