"""The admission queue in virtual time: order, bounds, and nothing lost between grant and departure."""

import asyncio

import pytest

from cluster.config.gateway import GatewayConfig
from deployments.router.admission.queue import AdmissionQueue
from deployments.router.wire.errors import ApiError

pytestmark = pytest.mark.looptime


class Seats:
    """What is waited for: so many for each key."""

    def __init__(self, **free):
        self.free = free
        self.given = []
        self.back = []

    def attempt(self, key, name):
        def take():
            if self.free.get(key, 0) == 0:
                return None
            self.free[key] -= 1
            self.given.append(name)
            return name

        return take

    def discard(self, name):
        self.back.append(name)


def queue(**changes):
    return AdmissionQueue(
        GatewayConfig(**{"max_concurrent_requests": 100, "max_queued_requests": 3, **changes})
    )


def ask(waiting, seats, name, key="a", timeout_s=10.0):
    return asyncio.create_task(
        waiting.until(
            seats.attempt(key, name),
            key=key,
            discard=seats.discard,
            timeout_s=timeout_s,
            why=lambda: "No seat.",
        ),
        name=name,
    )


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_free_is_given_at_once():
    seats = Seats(a=1)
    assert await ask(queue(), seats, "first") == "first"


async def test_within_a_model_the_first_comes_first():
    waiting, seats = queue(), Seats()
    tasks = [ask(waiting, seats, name) for name in ("one", "two", "three")]
    await settle()
    assert waiting.queued == 3
    for given in (["one"], ["one", "two"], ["one", "two", "three"]):
        seats.free["a"] = 1
        waiting.wake()
        await settle()
        assert seats.given == given
    assert [await task for task in tasks] == seats.given
    assert waiting.queued == 0


async def test_one_wake_serves_as_many_as_there_is_room_for():
    waiting, seats = queue(), Seats()
    tasks = [ask(waiting, seats, name) for name in ("one", "two", "three")]
    await settle()
    seats.free["a"] = 2
    waiting.wake()
    await settle()
    assert seats.given == ["one", "two"]
    tasks[2].cancel()


async def test_who_comes_later_does_not_overtake():
    waiting, seats = queue(), Seats()
    first = ask(waiting, seats, "first")
    await settle()
    seats.free["a"] = 1
    second = ask(waiting, seats, "second")
    await settle()
    assert seats.given == []
    waiting.wake()
    await settle()
    assert seats.given == ["first"]
    assert await first == "first"
    second.cancel()


async def test_who_wants_something_else_of_a_model_is_not_blocked():
    waiting, seats = queue(), Seats(north=0, south=1)

    def ask_side(side, name):
        granted = waiting.until(
            seats.attempt(side, name),
            key="a",
            discard=seats.discard,
            timeout_s=10.0,
            why=str,
            wants=side,
        )
        return asyncio.create_task(granted)

    north = [ask_side("north", name) for name in ("n1", "n2")]
    await settle()
    assert await ask_side("south", "s1") == "s1"
    south = ask_side("south", "s2")
    await settle()
    seats.free["south"] = 1
    waiting.leave("a")
    assert await south == "s2"
    seats.free["north"] = 2
    waiting.wake()
    assert [await task for task in north] == ["n1", "n2"]


async def test_an_attempt_that_fails_is_its_own_requests_failure():
    waiting, seats = queue(), Seats(a=1)
    assert await ask(waiting, seats, "first") == "first"

    def broken():
        if seats.free["a"]:
            raise ValueError("a defect")

    unlucky = asyncio.create_task(
        waiting.until(broken, key="a", discard=seats.discard, timeout_s=10.0, why=str)
    )
    await settle()
    behind = ask(waiting, seats, "behind")
    await settle()
    seats.free["a"] = 1
    waiting.leave("a")
    with pytest.raises(ValueError, match="a defect"):
        await unlucky
    assert await behind == "behind"


async def test_another_model_is_not_blocked():
    waiting, seats = queue(), Seats(b=1)
    blocked = ask(waiting, seats, "blocked", key="a")
    await settle()
    assert await ask(waiting, seats, "other", key="b") == "other"
    late = ask(waiting, seats, "late", key="b")
    await settle()
    seats.free["b"] = 1
    waiting.wake()
    assert await late == "late"
    assert not blocked.done()
    blocked.cancel()


async def test_a_full_queue_is_a_429():
    waiting, seats = queue(), Seats()
    tasks = [ask(waiting, seats, str(number)) for number in range(3)]
    await settle()
    with pytest.raises(ApiError) as caught:
        await ask(waiting, seats, "one too many")
    assert caught.value.status == 429
    assert int(caught.value.headers["retry-after"]) >= 1
    assert waiting.queued == 3
    for task in tasks:
        task.cancel()


async def test_waiting_ends_with_a_503_on_time(looptime):
    waiting, seats = queue(), Seats()
    with pytest.raises(ApiError) as caught:
        await ask(waiting, seats, "patient", timeout_s=10.0)
    assert looptime == 10.0
    assert caught.value.status == 503
    assert int(caught.value.headers["retry-after"]) >= 1
    assert caught.value.message == "No seat. Waited 10 s."
    assert waiting.queued == 0


async def test_who_leaves_is_out_of_the_line():
    waiting, seats = queue(), Seats()
    first, second = ask(waiting, seats, "first"), ask(waiting, seats, "second")
    await settle()
    first.cancel()
    await settle()
    assert waiting.queued == 1
    seats.free["a"] = 2
    waiting.wake()
    assert await second == "second"
    assert seats.given == ["second"]


async def test_who_leaves_at_the_moment_of_the_grant_gives_it_back():
    waiting, seats = queue(), Seats()
    leaving = ask(waiting, seats, "leaving")
    await settle()
    seats.free["a"] = 1
    waiting.wake()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (seats.given, seats.back) == (["leaving"], ["leaving"])


async def test_whose_time_is_up_at_the_moment_of_the_grant_gives_it_back_or_keeps_it():
    waiting, seats = queue(), Seats()

    def free_one():
        seats.free["a"] = 1
        waiting.wake()

    # Scheduled before the queue's own timer for the same instant, so that it runs just before it.
    asyncio.get_running_loop().call_later(10.0, free_one)
    late = ask(waiting, seats, "late", timeout_s=10.0)
    try:
        kept = [await late]
    except ApiError:
        kept = []
    assert seats.given == ["late"]
    assert kept + seats.back == ["late"]


async def test_a_wake_with_nothing_free_changes_nothing():
    waiting, seats = queue(), Seats()
    task = ask(waiting, seats, "one")
    await settle()
    waiting.wake()
    await settle()
    assert waiting.queued == 1
    task.cancel()


async def test_at_the_bound_on_concurrent_requests_one_waits_although_a_seat_is_free():
    waiting, seats = queue(max_concurrent_requests=2), Seats(a=9)
    assert [await ask(waiting, seats, name) for name in ("one", "two")] == ["one", "two"]
    assert waiting.in_flight == 2
    third = ask(waiting, seats, "third")
    await settle()
    waiting.wake()
    await settle()
    assert (seats.given, waiting.in_flight, waiting.queued) == (["one", "two"], 2, 1)
    waiting.leave("a")
    assert await third == "third"
    assert (waiting.in_flight, waiting.queued) == (2, 0)


async def test_places_come_back_from_those_who_leave_or_are_given_up():
    waiting, seats = queue(max_concurrent_requests=1), Seats(a=1)
    await ask(waiting, seats, "first")
    leaving = ask(waiting, seats, "leaving")
    late = ask(waiting, seats, "late", timeout_s=3.0)
    await settle()
    seats.free["a"] = 1
    waiting.leave("a")
    leaving.cancel()
    await settle()
    assert seats.back == ["leaving"]
    with pytest.raises(ApiError):
        await late
    assert (waiting.in_flight, waiting.queued) == (0, 0)


async def test_those_who_wait_for_one_model_take_no_places_from_another():
    waiting, seats = queue(max_concurrent_requests=1), Seats(b=1)
    blocked = [ask(waiting, seats, str(number), key="a") for number in range(2)]
    await settle()
    assert await ask(waiting, seats, "other", key="b") == "other"
    for task in blocked:
        task.cancel()


def test_a_request_that_cannot_even_be_queued_is_refused_before_its_body_is_read():
    waiting = queue(max_concurrent_requests=1, max_queued_requests=0)
    waiting.check()
    waiting.in_flight = 1
    with pytest.raises(ApiError) as caught:
        waiting.check()
    assert caught.value.status == 429
    assert int(caught.value.headers["retry-after"]) >= 1
    waiting.in_flight = 0
    waiting.check()
