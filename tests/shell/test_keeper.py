"""Who is ended because he stands still, and who is not; without Ray."""

import asyncio
from collections.abc import Collection

import pytest

from deployments.directory.head_actors import ActorAwayError
from deployments.directory.keeper import Keeper


class Actors:
    """Those in `moods`, which answer, are silent, or are away."""

    def __init__(self, **moods: str) -> None:
        self.moods = moods
        self.ended: list[str] = []

    async def names(self) -> Collection[str]:
        if "nobody" in self.moods.values():
            raise RuntimeError("the control store is away")
        return list(self.moods)

    async def ask(self, name: str) -> None:
        if self.moods[name] == "silent":
            await asyncio.Event().wait()
        if self.moods[name] == "away":
            raise ActorAwayError("restarting")

    async def end(self, name: str) -> None:
        self.ended.append(name)


def keeper(actors: Actors) -> Keeper:
    return Keeper(actors, period_s=0.01, patience_s=0.02)


async def test_who_is_silent_twice_is_ended_and_nobody_else():
    actors = Actors(a="well", b="well")
    watching = keeper(actors)
    await watching.round()
    actors.moods["a"] = "silent"
    await watching.round()
    assert actors.ended == []  # the whole machine may have stood still
    await watching.round()
    assert actors.ended == ["a"]
    await watching.round()
    assert actors.ended == ["a"]  # its successor is starting


async def test_who_has_answered_meanwhile_has_another_two_rounds():
    actors = Actors(a="well")
    watching = keeper(actors)
    for mood in ("well", "silent", "well", "silent"):
        actors.moods["a"] = mood
        await watching.round()
    assert actors.ended == []


@pytest.mark.parametrize("mood", ["silent", "away"])
async def test_who_has_never_answered_may_be_starting(mood):
    actors = Actors(a=mood)
    watching = keeper(actors)
    for _ in range(4):
        await watching.round()
    actors.moods["a"] = "silent"
    for _ in range(4):
        await watching.round()
    assert actors.ended == []


async def test_one_that_is_being_restarted_is_one_that_has_never_answered():
    actors = Actors(a="well")
    watching = keeper(actors)
    for mood in ("well", "away", "silent", "silent", "silent"):
        actors.moods["a"] = mood
        await watching.round()
    assert actors.ended == []


async def test_it_goes_on_when_nobody_can_be_listed():
    actors = Actors(a="well", b="nobody")
    running = asyncio.create_task(keeper(actors).run())
    await asyncio.sleep(0.05)
    del actors.moods["b"]
    await asyncio.sleep(0.05)
    actors.moods["a"] = "silent"
    async with asyncio.timeout(2):
        while not actors.ended:
            await asyncio.sleep(0.01)
    running.cancel()
