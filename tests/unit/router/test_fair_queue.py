"""The admission queue between tenants: shares, classes, reserve, and who gives way when it is full."""

import asyncio

import pytest

from cluster.config.gateway import GatewayConfig
from cluster.config.tenants import FairnessConfig
from cluster.policy.tenancy.fair_order import Flow
from deployments.router.admission.queue import AdmissionQueue
from deployments.router.wire.errors import ApiError

pytestmark = pytest.mark.looptime

FLOWS = {
    "a": Flow(tenant="a", rank=1, weight=1.0),
    "b": Flow(tenant="b", rank=1, weight=1.0),
    "heavy": Flow(tenant="heavy", rank=1, weight=3.0),
    "urgent": Flow(tenant="urgent", rank=0, weight=1.0),
}


class Engine:
    """Takes so many requests at a time and says in which order they came."""

    def __init__(self, places, *, queued=1000, **fairness):
        self.places = places
        self.inside = 0
        self.order = []
        self.queue = AdmissionQueue(
            GatewayConfig(max_concurrent_requests=1000, max_queued_requests=queued),
            FairnessConfig(**{"reserve_share": 0.0, "starvation_s": 1e6, **fairness}),
            flow_of=lambda tenant: FLOWS[tenant],
            places_of=lambda _: places,
        )

    def _attempt(self, tenant):
        def take():
            if self.inside >= self.places:
                return None
            self.inside += 1
            self.order.append(tenant)
            return tenant

        return take

    async def ask(self, tenant, *, cost=10.0, busy_s=1.0):
        await self.queue.until(
            self._attempt(tenant),
            key="m",
            tenant=tenant,
            cost_tokens=cost,
            discard=lambda _: None,
            timeout_s=1000.0,
            why=lambda: "full",
        )
        await asyncio.sleep(busy_s)
        self.inside -= 1
        self.queue.leave("m", tenant)

    def flood(self, tenant, number, **how):
        return [asyncio.create_task(self.ask(tenant, **how)) for _ in range(number)]


async def test_tenants_of_equal_weight_take_turns_whoever_came_first():
    engine = Engine(1)
    tasks = engine.flood("a", 20)
    await asyncio.sleep(0)
    tasks += engine.flood("b", 10)
    await asyncio.gather(*tasks)
    assert abs(engine.order[:20].count("a") - engine.order[:20].count("b")) <= 2


async def test_shares_follow_weights_and_cost():
    engine = Engine(1)
    await asyncio.gather(*engine.flood("a", 40), *engine.flood("heavy", 40))
    first = engine.order[:40]
    assert 28 <= first.count("heavy") <= 32
    engine = Engine(1)
    await asyncio.gather(*engine.flood("a", 40, cost=30.0), *engine.flood("b", 40, cost=10.0))
    assert 28 <= engine.order[:40].count("b") <= 32


async def test_a_more_urgent_class_goes_first_but_nobody_waits_for_ever():
    engine = Engine(1, starvation_s=5.0)
    tasks = engine.flood("a", 3)
    await asyncio.sleep(0)
    tasks += engine.flood("urgent", 30)
    await asyncio.gather(*tasks)
    assert engine.order[:5] == ["a", "urgent", "urgent", "urgent", "urgent"]
    assert engine.order[5:7] == ["a", "a"]


async def test_what_is_reserved_is_found_free_by_those_below_their_share():
    engine = Engine(8, reserve_share=0.25, active_s=60.0)
    tasks = engine.flood("a", 16)
    await asyncio.sleep(0.5)
    assert engine.inside == 8  # nobody else asks
    await asyncio.sleep(2.0)
    await engine.ask("b", busy_s=0.1)  # from now on somebody does
    tasks += engine.flood("a", 50)
    await asyncio.sleep(0.5)
    assert engine.inside == 6
    asked_at_s = asyncio.get_running_loop().time()
    quick = engine.flood("b", 2, busy_s=0.1)
    await asyncio.gather(*quick)
    assert asyncio.get_running_loop().time() - asked_at_s == pytest.approx(0.1)
    await asyncio.gather(*tasks)
    assert engine.queue.in_flight == 0


async def test_who_has_not_asked_for_long_has_no_share():
    engine = Engine(8, reserve_share=0.5, active_s=60.0)
    await engine.ask("b")
    first = engine.flood("a", 8, busy_s=30.0)
    await asyncio.sleep(0.1)
    assert engine.inside == 4
    await asyncio.gather(*first)
    await asyncio.sleep(60.0)
    later = engine.flood("a", 8)
    await asyncio.sleep(0.1)
    assert engine.inside == 8
    await asyncio.gather(*later)


async def test_a_full_queue_drops_the_newest_of_the_longest_line():
    engine = Engine(1, queued=4)
    flood = engine.flood("a", 5)
    await asyncio.sleep(0)
    assert engine.queue.queued == 4
    engine.queue.check("b")
    late = engine.flood("b", 1)
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as refused:
        await flood[-1]
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    await asyncio.gather(*flood[:-1], *late)
    assert engine.order.count("b") == 1
    assert engine.queue.queued == 0


async def test_who_floods_is_refused_itself():
    engine = Engine(1, queued=4)
    flood = engine.flood("a", 7)
    done = await asyncio.gather(*flood, return_exceptions=True)
    assert sum(isinstance(result, ApiError) for result in done) == 2
    assert len(engine.order) == 5


async def test_giving_up_costs_a_tenant_nothing():
    engine = Engine(1)
    tasks = engine.flood("b", 1)
    await asyncio.sleep(0)
    left = engine.flood("a", 10)
    await asyncio.sleep(0)
    for task in left:
        task.cancel()
    await asyncio.sleep(0)
    tasks += engine.flood("b", 4)
    tasks += engine.flood("a", 4)
    await asyncio.gather(*tasks)
    assert engine.order[1:5].count("a") >= 2


async def test_room_is_made_although_who_gives_way_has_left_in_the_same_instant():
    """A client's task is cancelled before it has taken its request out of the line."""
    engine = Engine(1, queued=2)
    working = asyncio.create_task(engine.ask("a"))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(engine.ask("a")) for _ in range(2)]
    await asyncio.sleep(0)

    async def newcomer() -> None:
        waiting[1].cancel()
        await engine.ask("b")

    await asyncio.gather(working, waiting[0], newcomer())
    assert engine.order == ["a", "b", "a"]
    assert waiting[1].cancelled()
    assert (engine.queue.in_flight, engine.queue.queued) == (0, 0)
