"""Single-flight in virtual time: one leader, exact succession, every bound, nobody left waiting for ever."""

import asyncio
from typing import Any

import pytest

from cluster.config.semantic_cache import ExactTierConfig
from deployments.semantic_cache.exact import Entry, EntryKey
from deployments.semantic_cache.single_flight import (
    ANSWER_TAKES_MAX_S,
    Lease,
    LeaseMismatchError,
    SingleFlight,
    Waiter,
)

pytestmark = pytest.mark.looptime

KEY = EntryKey(tenant="a", model="m", key="k")
ANSWER = Entry(body=b"answer", content_type="text/plain", stored_at_s=0.0)


def flights_with(**changes):
    return SingleFlight(ExactTierConfig(**changes))


class Asker:
    """Asks as the service does; `outcome` is a task when it waits."""

    def __init__(self, flights, key=KEY):
        self.turn = flights.ask(key)
        self.gone = asyncio.Event()
        self.task: Any = None
        if isinstance(self.turn, Waiter):
            self.task = asyncio.create_task(flights.wait(self.turn, gone=self._left()))

    async def _left(self):
        await self.gone.wait()


def promoted(askers):
    return [a for a in askers if a.task and a.task.done() and isinstance(a.task.result(), Lease)]


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_fifty_equal_askers_get_one_lease_and_one_answer():
    flights = flights_with()
    askers = [Asker(flights) for _ in range(50)]
    await settle()
    leases = [a.turn for a in askers if isinstance(a.turn, Lease)]
    assert len(leases) == 1
    assert flights.stats().waiters == 49
    assert flights.land(KEY, ANSWER) == 49
    assert [await a.task for a in askers[1:]] == [ANSWER] * 49
    assert (flights.stats().leases, flights.stats().waiters) == (0, 0)


async def test_other_keys_and_other_tenants_do_not_wait():
    flights = flights_with()
    assert isinstance(flights.ask(KEY), Lease)
    assert isinstance(flights.ask(KEY._replace(tenant="b")), Lease)
    assert isinstance(flights.ask(KEY._replace(model="n")), Lease)
    flights.close()


async def test_a_released_lease_goes_to_exactly_one_the_longest_waiting():
    flights = flights_with()
    leader, *others = [Asker(flights) for _ in range(50)]
    await settle()
    assert flights.release(leader.turn.token)
    await settle()
    assert promoted(others) == [others[0]]
    assert flights.stats().waiters == 48
    assert not flights.release(leader.turn.token)
    await settle()
    assert len(promoted(others)) == 1
    flights.land(KEY, ANSWER)
    assert [await a.task for a in others[1:]] == [ANSWER] * 48


async def test_a_lease_that_runs_out_goes_to_one_waiter_at_a_time():
    flights = flights_with(lease_s=10.0, single_flight_wait_s=100.0)
    others = [Asker(flights) for _ in range(4)][1:]
    await asyncio.sleep(9.9)
    assert not promoted(others)
    await asyncio.sleep(0.2)
    assert promoted(others) == others[:1]
    await asyncio.sleep(10)
    assert promoted(others) == others[:2]
    assert flights.stats().expired == 2
    flights.close()
    assert await others[2].task is None


async def test_a_lease_nobody_waits_for_runs_out_without_a_trace():
    flights = flights_with(lease_s=10.0)
    flights.ask(KEY)
    await asyncio.sleep(10.1)
    assert flights.stats().leases == 0
    assert isinstance(flights.ask(KEY), Lease)
    flights.close()


async def test_who_waited_long_enough_computes_alone():
    flights = flights_with(single_flight_wait_s=5.0, lease_s=100.0)
    flights.ask(KEY)
    waiter = Asker(flights)
    started_at_s = asyncio.get_running_loop().time()
    assert await waiter.task is None
    assert asyncio.get_running_loop().time() - started_at_s == pytest.approx(5.0)
    assert flights.stats().waiters == 0
    flights.close()


async def test_a_waiter_who_leaves_is_removed_and_never_leads():
    flights = flights_with()
    leader, gone, stays = [Asker(flights) for _ in range(3)]
    await settle()
    gone.gone.set()
    await settle()
    assert flights.stats().waiters == 1
    flights.release(leader.turn.token)
    await settle()
    assert promoted([gone, stays]) == [stays]
    flights.close()


async def test_a_waiter_promoted_as_it_leaves_passes_the_lease_on():
    flights = flights_with()
    leader, gone, stays = [Asker(flights) for _ in range(3)]
    await settle()
    gone.gone.set()
    flights.release(leader.turn.token)
    await settle()
    assert gone.task.result() is None
    assert promoted([stays]) == [stays]
    flights.close()


async def test_a_cancelled_waiter_is_removed():
    flights = flights_with()
    flights.ask(KEY)
    waiter = Asker(flights)
    await settle()
    waiter.task.cancel()
    await settle()
    assert flights.stats().waiters == 0
    flights.close()


async def test_more_waiters_than_allowed_compute_alone():
    flights = flights_with(single_flight_waiters_max=2)
    askers = [Asker(flights) for _ in range(5)]
    assert [type(a.turn) for a in askers] == [Lease, Waiter, Waiter, type(None), type(None)]
    assert flights.stats().turned_away == 2
    await settle()
    flights.land(KEY, ANSWER)
    assert isinstance(Asker(flights).turn, Lease)
    flights.close()


async def test_no_more_leases_than_answers_could_be_kept():
    flights = flights_with(entries_max=2)
    turns = [flights.ask(KEY._replace(key=str(number))) for number in range(3)]
    assert [type(turn) for turn in turns] == [Lease, Lease, type(None)]
    flights.close()


async def test_zero_wait_turns_it_off():
    flights = flights_with(single_flight_wait_s=0.0)
    assert flights.ask(KEY) is None
    assert flights.ask(KEY) is None


async def test_an_answer_from_before_a_purge_is_neither_stored_nor_shared():
    flights = flights_with()
    leader, second, third = [Asker(flights) for _ in range(3)]
    await settle()
    assert flights.void("b", None) == 0
    assert flights.void("a", None) == 1
    await settle()
    assert promoted([second, third]) == [second]
    assert not flights.check(leader.turn.token, KEY)
    flights.release(leader.turn.token)
    await settle()
    assert not third.task.done()
    assert flights.check(second.task.result().token, KEY)
    flights.land(KEY, ANSWER)
    assert await third.task == ANSWER
    assert flights.stats().leases == 0


async def test_a_lease_is_good_for_its_key_only():
    flights = flights_with()
    lease = flights.ask(KEY)
    with pytest.raises(LeaseMismatchError):
        flights.check(lease.token, KEY._replace(tenant="b"))
    assert flights.check(None, KEY)
    assert flights.check("run out long ago", KEY)
    flights.close()


@pytest.mark.parametrize("named", [("a", "m"), ("a", None), (None, "m"), (None, None)])
async def test_who_has_no_lease_any_more_may_be_from_before_a_purge(named):
    flights = flights_with(lease_s=60.0)
    lease = flights.ask(KEY)
    flights.void(*named)
    await asyncio.sleep(61.0)
    assert not flights.check(lease.token, KEY)
    assert not flights.check(None, KEY)
    assert flights.check(None, KEY._replace(tenant="b", model="n")) == (named != (None, None))
    fresh = flights.ask(KEY)
    assert flights.check(fresh.token, KEY)
    await asyncio.sleep(ANSWER_TAKES_MAX_S)
    assert flights.check(lease.token, KEY)


async def test_purges_that_are_too_many_to_remember_count_for_all():
    flights = flights_with()
    flights.void("a", None)
    assert flights.check(None, KEY._replace(tenant="c"))
    for number in range(2_000):
        flights.void(f"t{number}", "m")
    assert not flights.check(None, KEY)
    assert not flights.check(None, KEY._replace(tenant="c"))
    await asyncio.sleep(ANSWER_TAKES_MAX_S + 1.0)
    assert flights.check(None, KEY)
    assert len(flights._purges) <= 1_024
