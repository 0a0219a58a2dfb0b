"""Whole simulated fleets: the provisioner under steps, crowds, losses and blindness; closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import yaml

from cluster.config import parse_config
from cluster.entities.performance import PowerCurve
from cluster.performance.profiles import pool_performance
from cluster.simulation.experiment import figures
from cluster.simulation.faults import HardwareLost, ReplicaFailure, SignalsStale
from cluster.simulation.invariants import Invariants
from cluster.simulation.run import Simulation, simulate
from cluster.simulation.scenario import Scenario
from cluster.simulation.traffic.synthetic import LengthShape, steady
from cluster.simulation.traffic.trace import Trace
from tests.simulation.shaped import diurnal, flash_crowd, oscillating, shaped, step

MIXED = parse_config("""
models:
  m: {source: s, architecture: llama-3.1-8b, slo: {ttft_s: 2.0, tpot_s: 0.1, attainment: 0.95}}
pools:
  h100: {model: m, gpu_type: H100, replicas: {min: 0, max: 6, initial: 2}, max_concurrent_requests: 128}
  a100: {model: m, gpu_type: A100, replicas: {min: 0, max: 8, initial: 1}, max_concurrent_requests: 96}
provisioning: {period_s: 10}
""")
SPLIT = parse_config("""
models: {m: {source: s, architecture: llama-3.1-8b}}
pools:
  p: {model: m, role: prefill, gpu_type: H100, replicas: {min: 1, max: 2, initial: 2}}
  d:
    model: m
    role: decode
    gpu_type: A100
    replicas: {min: 1, max: 3, initial: 3}
    max_concurrent_requests: 128
provisioning: {period_s: 10}
""")


def _shaped(rate_at, highest, duration_s):
    return shaped(rate_at, rate_max_per_s=highest, duration_s=duration_s)


def _without_energy(config):
    replicas = config.routing.replicas.model_copy(update={"energy_slack_s": 0.0})
    return config.model_copy(update={"routing": config.routing.model_copy(update={"replicas": replicas})})


def _run(trace, *, config=MIXED, **more):
    return simulate(Scenario(config=config, traces={"m": trace}, **more))


def test_equal_seeds_give_equal_reports_and_others_do_not():
    trace = steady(rate_per_s=8.0, requests=1500, seed=1)
    first, second = (_run(trace, seed=3) for _ in range(2))
    assert first == second
    assert figures(first) == figures(second)
    # Where energy decides, chance seldom has to.
    work_only = _without_energy(MIXED)
    ttft_s = [_run(trace, seed=seed, config=work_only).ttft_s for seed in (3, 4)]
    assert ttft_s[0] != ttft_s[1]


def test_nothing_is_lost_and_the_books_balance_through_failures():
    """Tokens, KV blocks and energy are checked after every event, on both paths and with faults."""
    trace = steady(rate_per_s=12.0, requests=900, seed=2)
    faults = (
        ReplicaFailure(at_s=15.0, pool="d"),
        ReplicaFailure(at_s=25.0, pool="p"),
        HardwareLost(at_s=40.0, until_s=60.0, gpu_type="H100"),
    )
    scenario = Scenario(
        config=SPLIT, traces={"m": trace}, policy="fixed", faults=faults, check_invariants=True
    )
    report = simulate(scenario)
    assert report.completed + report.failed + report.rejected == report.requests == 900
    assert report.disaggregated > 0
    jumped = simulate(replace(scenario, check_invariants=False))
    stepped = simulate(replace(scenario, check_invariants=False, single_steps=True))
    assert jumped.ttft_s == pytest.approx(stepped.ttft_s)
    assert jumped.energy_j == pytest.approx(stepped.energy_j)


def test_prefill_replicas_that_answer_as_a_last_resort_finish_what_they_take():
    trace = steady(rate_per_s=2.0, requests=120, seed=4)
    # The only decode replica dies and its successor takes a while: prefill replicas are whole engines.
    data = SPLIT.model_dump(mode="json")
    data["pools"]["d"]["replicas"] |= {"min": 1, "max": 1, "initial": 1}
    faults = (ReplicaFailure(at_s=15.0, pool="d"),)
    report = simulate(
        Scenario(
            config=parse_config(yaml.safe_dump(data)),
            traces={"m": trace},
            policy="fixed",
            faults=faults,
            check_invariants=True,
        )
    )
    assert report.completed + report.failed == report.requests == 120
    assert report.pools["p"].output_tokens > 0, "they made tokens, too"
    assert report.failed < 20, "only what the dead replica had begun"


def test_the_invariants_notice_a_wrong_world():
    simulation = Simulation(
        Scenario(config=MIXED, traces={"m": steady(rate_per_s=20.0, requests=200, seed=0)})
    )
    simulation.world.run(lambda: simulation.world.events > 60)
    check = Invariants(simulation.world)
    check.check()
    simulation.world.pools["h100"].ready[0].requests_in_flight += 1
    with pytest.raises(AssertionError):
        check.check()


@pytest.mark.slow
def test_after_a_step_the_objectives_are_met_again_within_minutes():
    trace = _shaped(step(4.0, 25.0, 600.0), 25.0, 1500.0)
    simulation = Simulation(Scenario(config=MIXED, traces={"m": trace}))
    report = simulation.run()
    late = [r for r in simulation.world.requests if r.arrived_at_s > 780.0]
    met = sum(1 for r in late if r.ttft_s <= 2.0 and r.tpot_s <= 0.1) / len(late)
    assert met > 0.97, "three minutes after the step"
    assert report.rejected == report.failed == 0


@pytest.mark.slow
def test_a_flash_crowd_is_served_and_leaves_no_replicas_behind():
    trace = _shaped(flash_crowd(4.0, 25.0, 300.0, 300.0), 25.0, 1500.0)
    simulation = Simulation(Scenario(config=MIXED, traces={"m": trace}))
    report = simulation.run()
    ready = {name: line.ready for name, line in simulation.control.timeline.pools.items()}
    total = [sum(counts) for counts in zip(*ready.values(), strict=True)]
    assert max(total[35:80]) > total[25]
    assert total[145] <= total[25] + 1
    # A crowd six times the demand, out of nothing, waits for replicas to start; what comes later does not.
    late = [r for r in simulation.world.requests if r.arrived_at_s > 480.0]
    assert sum(1 for r in late if r.ttft_s <= 2.0 and r.tpot_s <= 0.1) / len(late) > 0.95
    assert report.failed == report.rejected == 0


@pytest.mark.slow
@pytest.mark.parametrize(("period_s", "most"), [(120.0, 16), (400.0, 40)])
def test_oscillating_demand_does_not_make_the_fleet_flap(period_s, most):
    """Faster than the scale-down window it is ridden out; slower, each pool turns at most twice a window."""
    report = _run(_shaped(oscillating(4.0, 20.0, period_s), 20.0, 3600.0))
    assert report.direction_changes <= most, "two pools, one hour"
    assert report.slo_attainment > 0.95


@pytest.mark.slow
def test_a_day_costs_less_than_its_peak_within_the_objectives():
    trace = _shaped(diurnal(0.1, 1.2), 1.2, 86_400.0)
    small = MIXED.model_copy(
        update={"provisioning": MIXED.provisioning.model_copy(update={"period_s": 60.0})}
    )
    ours, static = (_run(trace, config=small, policy=policy) for policy in ("unit_commitment", "static_peak"))
    assert ours.energy_j < 0.7 * static.energy_j
    assert ours.slo_attainment > 0.97


@pytest.mark.slow
def test_a_gpu_type_that_is_lost_is_replaced_by_another():
    trace = _shaped(lambda _: 12.0, 12.0, 1200.0)
    fault = HardwareLost(at_s=300.0, until_s=900.0, gpu_type="H100")
    simulation = Simulation(Scenario(config=MIXED, traces={"m": trace}, faults=(fault,)))
    simulation.run()
    a100 = simulation.control.timeline.pools["a100"].ready
    h100 = simulation.control.timeline.pools["h100"].ready
    assert h100[60] == 0
    assert a100[60] >= 1
    during = [r for r in simulation.world.requests if 600.0 < r.arrived_at_s < 800.0]
    assert sum(1 for r in during if not r.failed and r.ttft_s <= 2.0) / len(during) > 0.95


@pytest.mark.slow
def test_blind_it_takes_nothing_away():
    trace = _shaped(step(40.0, 1.0, 600.0), 40.0, 1600.0)
    fault = SignalsStale(at_s=590.0, until_s=1200.0)
    simulation = Simulation(Scenario(config=MIXED, traces={"m": trace}, faults=(fault,)))
    simulation.run()
    ready = zip(*(line.ready for line in simulation.control.timeline.pools.values()), strict=True)
    total = [sum(counts) for counts in ready]
    assert min(total[65:118]) >= total[58], "while it cannot see"
    assert total[155] < total[58], "once it sees again"


# Closed forms


def _server(**changes):
    """A replica that is a queueing server: one request at a time, service by its answer's length alone."""
    pool = MIXED.pools["h100"]
    numbers = {
        "step_base_s": 0.01,
        "step_per_sequence_s": 0.0,
        "step_per_context_token_s": 0.0,
        "prefill_token_s": 0.0,
        "sequences_max": 1,
        "start_s": 1.0,
        "power": PowerCurve(idle_w=100.0, range_w=0.0, steepness=1.0, midpoint_log2=0.0, prefill_w=100.0),
    }
    return replace(pool_performance(pool, MIXED.models["m"]), **{**numbers, **changes})


def _queue(servers, answers, *, rate_per_s, seed, requests=60_000):
    rng = np.random.default_rng(seed)
    trace = Trace(
        name="queue",
        arrival_s=np.cumsum(rng.exponential(1.0 / rate_per_s, requests)),
        prompt_tokens=np.ones(requests, dtype=np.int64),
        output_tokens=answers(rng, requests),
    )
    config = parse_config(f"""
    models: {{m: {{source: s}}}}
    pools:
      q:
        {{model: m, gpu_type: H100, replicas: {{min: {servers}, max: {servers}}}, max_concurrent_requests: 1}}
    gateway: {{queue_timeout_s: 3600, max_queued_requests: 100000}}
    """)
    simulation = Simulation(
        Scenario(config=config, traces={"m": trace}, policy="fixed", performance={"q": _server()}, seed=seed)
    )
    simulation.run()
    done = simulation.world.requests[requests // 10 :]
    return float(np.mean([request.ttft_s - 0.01 for request in done]))


@pytest.mark.slow
def test_one_replica_waits_as_m_g_1():
    """Pollaczek-Khinchine: W = λ·E[S²] / (2(1 − ρ)), for exponential-like and for constant service."""
    for answers, name in (
        (lambda rng, n: rng.geometric(1 / 50.0, n).astype(np.int64), "geometric"),
        (lambda _, n: np.full(n, 50, dtype=np.int64), "constant"),
    ):
        drawn = answers(np.random.default_rng(9), 400_000) * 0.01
        rate = 0.7 / drawn.mean()
        expected = rate * (drawn**2).mean() / (2.0 * (1.0 - 0.7))
        found = np.mean([_queue(1, answers, rate_per_s=rate, seed=seed) for seed in range(2)])
        assert found == pytest.approx(expected, rel=0.08), name


@pytest.mark.slow
def test_many_replicas_wait_as_m_m_c():
    """Erlang C: W = C(c, a) / (cμ − λ). Requests wait in the router, so the queue is one."""
    servers, mean_s, load = 4, 0.5, 0.8
    rate = load * servers / mean_s
    offered = load * servers
    blocked = 1.0
    for server in range(1, servers + 1):
        blocked = offered * blocked / (server + offered * blocked)
    delayed = blocked / (1.0 - load * (1.0 - blocked))
    expected = delayed / (servers / mean_s - rate)
    found = np.mean(
        [
            _queue(
                servers,
                lambda rng, n: rng.geometric(1 / 50.0, n).astype(np.int64),
                rate_per_s=rate,
                seed=seed,
            )
            for seed in range(2)
        ]
    )
    assert math.isclose(found, expected, rel_tol=0.1)


def test_idle_replicas_draw_idle_power():
    trace = Trace(
        name="two",
        arrival_s=np.array([0.0, 3600.0]),
        prompt_tokens=np.array([8, 8]),
        output_tokens=np.array([1, 1]),
    )
    report = _run(trace, policy="fixed")
    idle_w = sum(
        pool_performance(pool, MIXED.models["m"]).power.idle_w * pool.replicas.start
        for pool in MIXED.pools.values()
    )
    assert report.energy_j == pytest.approx(idle_w * 3600.0, rel=0.01)


def test_lengths_that_never_fit_are_refused_and_counted():
    huge = LengthShape(median=10_000_000.0, longest=10_000_000)
    report = _run(steady(rate_per_s=1.0, requests=3, seed=0, prompt=huge), policy="fixed")
    assert report.rejected == 3
    assert report.slo_attainment == 0.0
