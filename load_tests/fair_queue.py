"""A flooding tenant against a calm one in virtual time: the router's own queue before simulated engines.

A minute of traffic takes a second or two and is the same for every run of a seed, so that what is measured is
the queue and not the machine. The engines batch as the simulated engine does (`deployments.engine`); replicas
are chosen as the router chooses them. `load_tests.tenant_fairness --live` is the same over HTTP.
"""

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import looptime

from cluster.config.gateway import GatewayConfig
from cluster.config.pools import SimulatedEngine
from cluster.config.routing import ReplicaRoutingConfig
from cluster.config.tenants import FairnessConfig
from cluster.entities.pool import PoolName, ReplicaId, ReplicaView, Role
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.routing.replicas.interface import Situation
from cluster.policy.routing.replicas.min_work import min_work
from cluster.policy.tenancy.fair_order import Flow
from deployments.engine.simulated_batch import Batch, Sequence
from deployments.router.admission.queue import AdmissionQueue
from deployments.router.wire.errors import ApiError

CALM, FLOODING = "calm", "flooding"
ENGINE = SimulatedEngine(
    kind="simulated", prefill_tokens_per_s=40_000, step_base_s=0.03, step_per_sequence_s=0.0002
)
REPLICAS = 2
PLACES = 16
"""Of each replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Who asks how much in one run."""

    duration_s: float = 60.0
    calm_per_s: float = 4.0
    other_per_s: float = 14.0
    """The neighbour within its share: half of what the engines can do."""
    prompt_tokens: int = 256
    output_tokens: int = 32
    one_line: bool = False
    """Whether both are one tenant to the queue."""
    reserve_share: float = FairnessConfig().reserve_share


@dataclass(slots=True)
class Seen:
    """What one tenant saw."""

    ttft_s: list[float]
    asked: int = 0
    tokens: int = 0


class _Fleet:
    """Engines that take so many requests each, and what the router has dispatched to them."""

    def __init__(self, seed: int) -> None:
        self.batches = [Batch(ENGINE, running_max=PLACES, waiting_max=PLACES) for _ in range(REPLICAS)]
        self.held = [0] * REPLICAS
        self.begun = [0] * REPLICAS
        """Requests whose first token has not come yet."""
        self._chance = random.Random(f"fleet-{seed}")

    def take(self, tokens: int) -> int | None:
        """A place on the replica of the least predicted work, for a prompt as long as all others are."""
        free = [self._view(number, tokens) for number in range(REPLICAS) if self.held[number] < PLACES]
        if not free:
            return None
        situation = Situation(
            signals=RequestSignals(surface=Surface.CHAT, model="m", tenant="", prompt_tokens=tokens),
            ready=free,
            usable=free,
            config=ReplicaRoutingConfig(),
            remembered={},
            now_s=0.0,
            draw=self._chance.random(),
        )
        replica = int(str(min_work(situation).replica_id))
        self.held[replica] += 1
        self.begun[replica] += 1
        return replica

    def _view(self, number: int, tokens: int) -> ReplicaView:
        return ReplicaView(
            replica_id=ReplicaId(str(number)),
            pool=PoolName("p"),
            role=Role.COMBINED,
            pending_prefill_tokens=tokens * self.begun[number],
            requests_in_flight=self.held[number],
            requests_waiting=self.begun[number],
            prefill_tokens_per_s=ENGINE.prefill_tokens_per_s,
            max_concurrent_requests=PLACES,
        )


async def _ask(queue: AdmissionQueue, fleet: _Fleet, tenant: str, traffic: Traffic, seen: Seen) -> None:
    loop = asyncio.get_running_loop()
    arrived_at_s = loop.time()
    seen.asked += 1
    line = FLOODING if traffic.one_line else tenant
    try:
        queue.check(line)
        replica = await queue.until(
            lambda: fleet.take(traffic.prompt_tokens),
            key="m",
            tenant=line,
            cost_tokens=traffic.prompt_tokens + traffic.output_tokens,
            discard=lambda _: None,
            timeout_s=30.0,
            why=lambda: "full",
        )
    except ApiError:
        return
    sequence = Sequence(
        prompt_tokens=traffic.prompt_tokens,
        output_tokens=traffic.output_tokens,
        watched=True,
        changed=asyncio.Event(),
    )
    fleet.batches[replica].add([sequence])
    await sequence.changed.wait()
    fleet.begun[replica] -= 1
    seen.ttft_s.append(loop.time() - arrived_at_s)
    sequence.watched = False  # only its end matters from here
    while not sequence.finished:
        sequence.changed.clear()
        await sequence.changed.wait()
    seen.tokens += sequence.produced
    fleet.held[replica] -= 1
    queue.leave("m", line)


async def _arrive(queue: AdmissionQueue, fleet: _Fleet, tenant: str, traffic: Traffic, seed: int) -> Seen:
    seen, rng = Seen([]), random.Random(f"{tenant}-{seed}")
    rate_per_s = traffic.calm_per_s if tenant == CALM else traffic.other_per_s
    tasks: set[asyncio.Task[None]] = set()
    while rate_per_s > 0 and asyncio.get_running_loop().time() < traffic.duration_s:
        await asyncio.sleep(rng.expovariate(rate_per_s))
        task = asyncio.create_task(_ask(queue, fleet, tenant, traffic, seen))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return seen


async def _run(traffic: Traffic, seed: int) -> dict[str, Seen]:
    flows: dict[str, Flow] = defaultdict(Flow)
    for tenant in (CALM, FLOODING):
        flows[tenant] = Flow(tenant=tenant, rank=1)
    queue = AdmissionQueue(
        GatewayConfig(),
        FairnessConfig(reserve_share=traffic.reserve_share),
        flow_of=flows.__getitem__,
        # Without tenants nothing is held free for anybody.
        places_of=lambda _: 0 if traffic.one_line else REPLICAS * PLACES,
    )
    fleet = _Fleet(seed)
    calm, other = await asyncio.gather(
        *(_arrive(queue, fleet, tenant, traffic, seed) for tenant in (CALM, FLOODING))
    )
    for batch in fleet.batches:
        await batch.aclose()
    return {CALM: calm, FLOODING: other}


def simulate(traffic: Traffic, seed: int) -> dict[str, Seen]:
    """One run in virtual time."""
    loop: Any = looptime.new_event_loop()
    try:
        found: dict[str, Seen] = loop.run_until_complete(_run(traffic, seed))
    finally:
        loop.close()
    return found


def arms(base: Traffic, *, flood_per_s: float) -> dict[str, Traffic]:
    """What is compared: a neighbour within its share, and floods with and without what keeps them apart."""
    flood = replace(base, other_per_s=flood_per_s)
    return {
        "busy": base,
        "flood": flood,
        "flood_quarter_reserved": replace(flood, reserve_share=0.25),
        "flood_without_reserve": replace(flood, reserve_share=0.0),
        "flood_one_line": replace(flood, one_line=True),
    }
