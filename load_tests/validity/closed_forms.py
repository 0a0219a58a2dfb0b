"""Waiting times that queueing theory knows exactly, and what the simulator makes of the same queues."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cluster.config import parse_config
from cluster.entities.performance import PowerCurve
from cluster.performance.profiles import pool_performance
from cluster.simulation.run import Simulation
from cluster.simulation.scenario import Scenario
from cluster.simulation.traffic.trace import Ints, Trace

STEP_S = 0.01
ANSWER_MEAN_TOKENS = 50
_WARM_UP = 0.1
"""Share of the requests that fill the queue and do not count."""

Answers = Callable[[np.random.Generator, int], Ints]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Poisson arrivals, one line for all servers, and service of STEP_S for each token of the answer."""

    name: str
    servers: int
    load: float
    """Share of the time in which a server is busy, 0..1."""
    answers: Answers
    expected_wait_s: float
    """Mean time in the queue, of theory."""

    @property
    def rate_per_s(self) -> float:
        """Arrivals."""
        return self.load * self.servers / (ANSWER_MEAN_TOKENS * STEP_S)


def pollaczek_khinchine_s(rate_per_s: float, mean_s: float, second_moment_s2: float) -> float:
    """Mean wait of M/G/1: λ·E[S²] / (2(1 − ρ))."""
    return rate_per_s * second_moment_s2 / (2.0 * (1.0 - rate_per_s * mean_s))


def erlang_c_s(servers: int, rate_per_s: float, mean_s: float) -> float:
    """Mean wait of M/M/c: C(c, a) / (cμ − λ)."""
    offered = rate_per_s * mean_s
    blocked = 1.0
    for server in range(1, servers + 1):
        blocked = offered * blocked / (server + offered * blocked)
    load = offered / servers
    return blocked / (1.0 - load * (1.0 - blocked)) / (servers / mean_s - rate_per_s)


def queues() -> tuple[Queue, ...]:
    """M/G/1 with constant and with geometric service, M/M/c with four servers (geometric is its grid)."""
    mean_s, share = ANSWER_MEAN_TOKENS * STEP_S, 1.0 / ANSWER_MEAN_TOKENS
    geometric_s2 = (2.0 - share) / (share * share) * STEP_S * STEP_S

    def constant(_: np.random.Generator, count: int) -> Ints:
        return np.full(count, ANSWER_MEAN_TOKENS, dtype=np.int64)

    def geometric(rng: np.random.Generator, count: int) -> Ints:
        return rng.geometric(share, count).astype(np.int64)

    alone, many = 0.7, 0.8
    return (
        Queue(
            name="M/G/1, constant service",
            servers=1,
            load=alone,
            answers=constant,
            expected_wait_s=pollaczek_khinchine_s(alone / mean_s, mean_s, mean_s * mean_s),
        ),
        Queue(
            name="M/G/1, geometric service",
            servers=1,
            load=alone,
            answers=geometric,
            expected_wait_s=pollaczek_khinchine_s(alone / mean_s, mean_s, geometric_s2),
        ),
        Queue(
            name="M/M/4",
            servers=4,
            load=many,
            answers=geometric,
            expected_wait_s=erlang_c_s(4, many * 4 / mean_s, mean_s),
        ),
    )


def closed_form_row(queue: Queue, *, seed: int, requests: int) -> dict[str, Any]:
    """Simulate a queue and compare its mean wait with theory's."""
    rng = np.random.default_rng(seed)
    trace = Trace(
        name="queue",
        arrival_s=np.cumsum(rng.exponential(1.0 / queue.rate_per_s, requests)),
        prompt_tokens=np.ones(requests, dtype=np.int64),
        output_tokens=queue.answers(rng, requests),
    )
    config = parse_config(f"""
    models: {{m: {{source: s}}}}
    pools:
      q:
        model: m
        gpu_type: H100
        replicas: {{min: {queue.servers}, max: {queue.servers}}}
        max_concurrent_requests: 1
    gateway: {{queue_timeout_s: 3600, max_queued_requests: 100000}}
    """)
    server = replace(
        pool_performance(config.pools["q"], config.models["m"]),
        step_base_s=STEP_S,
        step_per_sequence_s=0.0,
        step_per_context_token_s=0.0,
        prefill_token_s=0.0,
        sequences_max=1,
        power=PowerCurve(idle_w=1.0, range_w=0.0, steepness=1.0, midpoint_log2=0.0, prefill_w=1.0),
    )
    simulation = Simulation(
        Scenario(config=config, traces={"m": trace}, policy="fixed", performance={"q": server}, seed=seed)
    )
    simulation.run()
    counted = simulation.world.requests[int(requests * _WARM_UP) :]
    wait_s = float(np.mean([request.ttft_s - STEP_S for request in counted]))
    return {
        "case": queue.name,
        "policy": "fixed",
        "seed": seed,
        "requests": requests,
        "load": queue.load,
        "expected_wait_s": queue.expected_wait_s,
        "simulated_wait_s": wait_s,
        "wait_error": wait_s / queue.expected_wait_s - 1.0,
    }
