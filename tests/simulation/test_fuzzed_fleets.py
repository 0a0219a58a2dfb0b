"""Made-up fleets, traffic and faults by seed: the world never contradicts itself and loses no request.

`TIDEMILL_FUZZ_SEEDS` takes more of them; a seed that fails is named and does it again.
"""

import os
import random

import pytest
import yaml

from cluster.config import TidemillConfig, parse_config
from cluster.simulation.faults import Fault, HardwareLost, ReplicaFailure, SignalsStale
from cluster.simulation.run import simulate
from cluster.simulation.scenario import Scenario
from cluster.simulation.traffic.synthetic import LengthShape, steady
from cluster.simulation.traffic.trace import Trace
from tests.simulation.shaped import flash_crowd, shaped

SEEDS = int(os.environ.get("TIDEMILL_FUZZ_SEEDS", "200"))
_PARTS = 8
_GPUS = ("H100", "A100", "L4")
_POLICIES = ("fixed", "unit_commitment", "utilisation", "queue_length")


def _fleet(chance: random.Random) -> TidemillConfig:
    split = chance.random() < 0.4
    pools: dict[str, dict[str, object]] = {}
    for number in range(chance.randint(1, 3)):
        most = chance.randint(1, 4)
        least = chance.randint(0, 1) if number else 1
        pools[f"p{number}"] = {
            "model": "m",
            "role": "decode" if split else "combined",
            "gpu_type": chance.choice(_GPUS),
            "replicas": {"min": least, "max": most, "initial": chance.randint(least, most)},
            "max_concurrent_requests": chance.choice([2, 16, 128]),
        }
    if split:
        pools["pre"] = {
            "model": "m",
            "role": "prefill",
            "gpu_type": chance.choice(_GPUS),
            "replicas": {"min": 1, "max": 2, "initial": chance.randint(1, 2)},
        }
    data = {
        "models": {"m": {"source": "s", "architecture": "llama-3.1-8b"}},
        "pools": pools,
        "gateway": {
            "max_queued_requests": chance.choice([4, 64, 512]),
            "queue_timeout_s": chance.choice([5, 120]),
        },
        "provisioning": {"period_s": chance.choice([5, 10, 30])},
    }
    return parse_config(yaml.safe_dump(data))


def _traffic(chance: random.Random) -> Trace:
    prompt = LengthShape(median=chance.choice([60.0, 700.0, 4000.0]), sigma=chance.random() * 1.5)
    requests, rate = chance.randint(20, 60), chance.choice([1.0, 4.0, 20.0])
    if chance.random() < 0.2:
        crowd = flash_crowd(0.5, 8.0, 10.0, 5.0)
        return shaped(crowd, rate_max_per_s=8.0, duration_s=25.0, seed=chance.randrange(10**6))
    variation = chance.choice([0.5, 1.0, 3.0])
    return steady(
        rate_per_s=rate, requests=requests, seed=chance.randrange(10**6), variation=variation, prompt=prompt
    )


def _faults(chance: random.Random, config: TidemillConfig, duration_s: float) -> tuple[Fault, ...]:
    found: list[Fault] = []
    for _ in range(chance.randint(0, 4)):
        at_s = chance.random() * duration_s
        until_s = at_s + 1.0 + chance.random() * 30.0
        kind = chance.random()
        if kind < 0.6:
            found.append(ReplicaFailure(at_s=at_s, pool=chance.choice(list(config.pools))))
        elif kind < 0.8:
            gpu = chance.choice(_GPUS)
            found.append(HardwareLost(at_s=at_s, until_s=until_s, gpu_type=gpu, kills=chance.random() < 0.7))
        else:
            found.append(SignalsStale(at_s=at_s, until_s=until_s))
    return tuple(found)


def _scenario(seed: int) -> Scenario:
    chance = random.Random(seed)
    config, trace = _fleet(chance), _traffic(chance)
    return Scenario(
        config=config,
        traces={"m": trace},
        seed=seed,
        policy=chance.choice(_POLICIES),
        faults=_faults(chance, config, float(trace.arrival_s[-1])),
        routers=chance.choice([1, 1, 3]),
        as_live=chance.random() < 0.3,
        check_invariants=True,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(_PARTS))
def test_no_seed_breaks_the_world(part: int) -> None:
    for seed in range(part, SEEDS, _PARTS):
        scenario = _scenario(seed)
        try:
            report = simulate(scenario)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        ended = report.completed + report.failed + report.rejected
        assert ended == report.requests == len(scenario.traces["m"].arrival_s), f"seed {seed}"
        if not scenario.faults:
            assert report.failed == 0, f"seed {seed}"


def test_a_seed_does_it_again() -> None:
    assert simulate(_scenario(7)) == simulate(_scenario(7))
