"""Nodes are asked for before replicas wait for them, and given back so that they can leave."""

import asyncio
import logging
import threading

import pytest

from cluster.config import parse_config
from cluster.entities.fleet import (
    FleetPlan,
    PoolObservation,
    PoolTarget,
    ReplicaObservation,
    ReplicaStage,
)
from cluster.entities.reasons import Reason
from cluster.performance.profiles import pool_performance
from operators.provisioner import nodes
from operators.provisioner.nodes import NodeBundle, RayNodes, bundles_wanted

H100 = NodeBundle(resources={"CPU": 2, "GPU": 1}, labels={"ray.io/accelerator-type": "H100"})
A100 = NodeBundle(resources={"CPU": 2, "GPU": 1, "a100": 1})


def _wanted(config, ready, targets, reasons=()):
    pools = [
        PoolObservation(
            pool=name,
            model="m",
            role=config.pools[name].role,
            gpu_type=config.pools[name].gpu_type,
            replicas=tuple(
                ReplicaObservation(replica_id=f"{name}-{number}", stage=ReplicaStage.READY)
                for number in range(count)
            ),
            replicas_wanted=count,
            performance=pool_performance(config.pools[name], config.models["m"]),
        )
        for name, count in ready.items()
    ]
    plan = FleetPlan(
        pools=tuple(
            PoolTarget(pool=name, replicas=count, reasons=tuple(reasons) if name == "h100" else ())
            for name, count in targets.items()
        )
    )
    return bundles_wanted(plan, pools, config)


def test_all_that_is_wanted_is_asked_for_while_something_is_missing(config):
    assert _wanted(config, {"a100": 1, "h100": 0}, {"a100": 1, "h100": 2}) == (A100, H100, H100)


def test_nothing_is_asked_for_once_everything_runs(config):
    """A request that stands is fulfilled by any node: also by one that is idle and ought to leave."""
    assert _wanted(config, {"a100": 2, "h100": 1}, {"a100": 2, "h100": 1}) == ()
    assert _wanted(config, {"a100": 2, "h100": 1}, {"a100": 1, "h100": 0}) == ()


def test_hardware_that_is_not_there_does_not_spoil_the_request_of_others(config):
    """Ray ignores a request of which it cannot fulfil a part."""
    missing = _wanted(config, {"a100": 0, "h100": 1}, {"a100": 1, "h100": 3}, [Reason.UNPLACEABLE])
    assert missing == (A100, H100)


def test_pools_that_run_anywhere_ask_for_no_nodes():
    plain = parse_config("""
models: {m: {source: s}}
pools: {h100: {model: m, replicas: {min: 1, max: 4}, resources: {cpus: 4}}}
""")
    assert _wanted(plain, {"h100": 1}, {"h100": 3}) == ()


async def test_the_request_precedes_the_replicas_and_goes_when_they_run(provisioner, cluster):
    await provisioner.rounds(20, rate_per_s=2.0)
    provisioner.start()
    cluster.calls.clear()
    await provisioner.rounds()
    assert cluster.told("request") == [(0,)], "what an earlier life may have asked for is taken back"
    cluster.calls.clear()
    targets = await provisioner.rounds(1, rate_per_s=120.0)
    while not cluster.told("scale"):
        targets = await provisioner.rounds()
    grown = next(place for place, call in enumerate(cluster.calls) if call[0] == "scale")
    assert cluster.calls[grown - 1] == ("request", sum(targets.values()))
    assert all(bundle in (A100, H100) for bundle in cluster.bundles)
    await provisioner.rounds(8)
    assert cluster.bundles == ()
    requests = len(cluster.told("request"))
    await provisioner.rounds(3)
    assert len(cluster.told("request")) == requests, "nothing has changed, nothing is said"
    targets = await provisioner.rounds(60, rate_per_s=0.2)
    assert sum(targets.values()) <= 1
    assert cluster.bundles == ()


async def test_a_request_that_fails_stops_nothing_and_is_said_once(provisioner, cluster, failures, caplog):
    cluster.failing = {"request": failures["request"]}
    with caplog.at_level(logging.WARNING, "tidemill.provisioner"):
        targets = await provisioner.rounds(8, rate_per_s=120.0)
    assert cluster.wanted == targets
    assert sum(targets.values()) > 1
    assert [record.message for record in caplog.records] == [
        "nodes could not be asked for in advance: GCS is away"
    ]
    cluster.failing = {}
    await provisioner.rounds()
    assert cluster.told("request"), "and it is tried again"


async def test_switched_off_or_paused_nothing_is_asked_for(provisioner, cluster):
    provisioner.loop.paused = True
    await provisioner.rounds(8, rate_per_s=120.0)
    assert cluster.told("request") == [(0,)]
    assert cluster.told("scale") == []


async def test_without_prewarming_pools_are_resized_all_the_same(config, cluster, provisioner):
    settings = config.provisioning.model_copy(update={"prewarm": False})
    cluster.config = config.model_copy(update={"provisioning": settings})
    provisioner.start()
    await provisioner.rounds(8, rate_per_s=120.0)
    assert cluster.told("request") == [(0,)]
    assert cluster.told("scale")


# Ray's side


async def test_rays_call_gets_bundles_with_label_selectors(monkeypatch):
    told = []
    monkeypatch.setattr(nodes, "request_cluster_resources", lambda *args, **_: told.append(args))
    monkeypatch.setattr(nodes.ray, "get_runtime_context", lambda: type("Context", (), {"gcs_address": "h:1"}))
    await RayNodes().request((A100, H100))
    assert told == [
        (
            "h:1",
            [
                {"resources": {"CPU": 2, "GPU": 1, "a100": 1}, "label_selector": {}},
                {
                    "resources": {"CPU": 2, "GPU": 1},
                    "label_selector": {"ray.io/accelerator-type": "H100"},
                },
            ],
        )
    ]


async def test_a_call_that_hangs_is_given_up_and_not_repeated_meanwhile(monkeypatch):
    release, calls = threading.Event(), []

    def hang(bundles):
        calls.append(bundles)
        release.wait(10)

    monkeypatch.setattr(nodes, "_tell", hang)
    monkeypatch.setattr(nodes, "_THREAD_TIMEOUT_S", 0.05)
    ray_nodes = RayNodes()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await ray_nodes.request((A100,))
    assert len(calls) == 1
    release.set()
    await asyncio.sleep(0.1)
    await ray_nodes.request(())
    assert calls[1:] == [()]
