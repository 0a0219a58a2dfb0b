"""A replica's performance with handy numbers, and an engine driven without a fleet."""

import math
import random

import pytest

from cluster.entities.performance import PowerCurve, Provenance, ReplicaPerformance
from cluster.simulation.engine import VirtualEngine
from cluster.simulation.request import SimulatedRequest

NUMBERS = {
    "step_base_s": 0.008,
    "step_per_sequence_s": 0.0,
    "step_per_context_token_s": 0.00065 / 8192,
    "prefill_token_s": 1e-5,
    "batch_tokens_max": 512,
    "sequences_max": 64,
    "kv_tokens_max": 20_000,
    "kv_block_tokens": 16,
    "kv_token_bytes": 1e5,
    "transfer_bytes_per_s": 1e10,
    "transfer_latency_s": 0.01,
    "start_s": 60.0,
    "start_j": 10_000.0,
    "power": PowerCurve(idle_w=100.0, range_w=300.0, steepness=1.0, midpoint_log2=4.0, prefill_w=600.0),
    "price_usd_per_h": 2.0,
    "gpus": 1,
    "provenance": Provenance.ASSUMED,
}


@pytest.fixture
def performance():
    """A replica's performance; keyword arguments replace single numbers."""

    def make(**changes):
        return ReplicaPerformance(**{**NUMBERS, **changes})

    return make


@pytest.fixture
def requests_of():
    """Seeded requests: exponential gaps, uniform lengths."""

    def make(seed, count, *, rate_per_s=20.0, prompt_max=1500, output_max=400):
        rng = random.Random(seed)
        at_s, made = 0.0, []
        for index in range(count):
            at_s += rng.expovariate(rate_per_s)
            lengths = rng.randint(1, prompt_max), rng.randint(1, output_max)
            made.append(SimulatedRequest(index, "m", at_s, *lengths))
        return made

    return make


@pytest.fixture
def drive():
    """Serve requests on one engine; gives the engine, and the instant at which the last one was done."""

    def run(requests, performance, *, single_steps=False):
        engine = VirtualEngine(performance, now_s=0.0, single_steps=single_steps)
        arrived = done = 0
        ends_at_s = now_s = math.inf
        while done < len(requests):
            arrival_s = requests[arrived].arrived_at_s if arrived < len(requests) else math.inf
            if not engine.active or arrival_s < ends_at_s:
                engine.submit(requests[arrived], arrival_s)
                arrived += 1
                if not engine.active:
                    engine.begin(arrival_s)
                ends_at_s = engine.segment.ends_at_s
                continue
            now_s = ends_at_s
            done += len(engine.end(now_s).finished)
            assert engine.kv.used <= engine.kv.blocks_max
            engine.begin(now_s)
            ends_at_s = engine.segment.ends_at_s
        return engine, now_s

    return run
