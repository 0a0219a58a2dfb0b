"""Actors whose process is frozen: Ray takes them for alive, so that somebody else has to end them.

A Ray of its own, because the patience that is shortened here belongs to the process that watches.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray

from deployments.directory import actor
from deployments.directory.actor import DirectoryClient, start_directory
from deployments.directory.head_actors import ActorAwayError, NamedActor, start_on_head
from deployments.directory.keeper import Keeper, NamespaceActors

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

_WITHIN_S = 40.0


class Standing:
    """An actor that says which process it is."""

    async def pid(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module", autouse=True)
def head() -> Iterator[None]:
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    for process in _processes("Standing") + _processes("FleetDirectory"):
        process.kill()
    ray.shutdown()


def _processes(word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if f"ray::{word}" in " ".join(process.cmdline()):
                found.append(process)
    return found


async def test_a_frozen_directory_is_ended_by_who_listens_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "_HANGS_AFTER_S", 2.0)
    start_directory()
    heard: list[Any] = []
    listening = asyncio.create_task(DirectoryClient().watch("r", heard.append))
    await _until(lambda: bool(heard) and len(_processes("FleetDirectory")) == 1)
    (frozen,) = _processes("FleetDirectory")
    before = heard[-1].version
    frozen.send_signal(signal.SIGSTOP)
    await _until(lambda: heard[-1].version > before)  # its successor counts on from the time of day
    assert frozen.pid not in [process.pid for process in _processes("FleetDirectory")]
    listening.cancel()


async def test_a_frozen_actor_is_ended_and_its_successor_answers() -> None:
    start_on_head(Standing, name="standing", max_concurrency=10, wait_for="pid")
    asked = NamedActor("standing", timeout_s=2.0)
    frozen = await asked.call("pid")
    keeping = asyncio.create_task(
        Keeper(NamespaceActors(but=actor.ACTOR_NAME), period_s=0.2, patience_s=1.0).run()
    )
    await asyncio.sleep(1.0)  # it is known to live
    os.kill(frozen, signal.SIGSTOP)
    successors: list[int] = []
    began_s = time.monotonic()
    while not successors and time.monotonic() - began_s < _WITHIN_S:
        with contextlib.suppress(ActorAwayError):
            successors.append(await asked.call("pid"))
    assert successors
    assert frozen not in successors
    assert not psutil.pid_exists(frozen) or psutil.Process(frozen).status() == psutil.STATUS_ZOMBIE
    keeping.cancel()


async def test_a_frozen_actor_of_others_is_ended_only_where_it_is_ours_to_end() -> None:
    ray.remote(Standing).options(
        name="theirs", namespace="serve", lifetime="detached", max_restarts=-1, max_concurrency=10
    ).remote()
    theirs = ray.get_actor("theirs", "serve")
    frozen = ray.get(theirs.pid.remote())
    strict = NamespaceActors(but=actor.ACTOR_NAME)
    assert "theirs" not in await strict.names()
    ours = NamespaceActors(but=actor.ACTOR_NAME, also={"theirs": "serve"})
    keeping = asyncio.create_task(Keeper(ours, period_s=0.2, patience_s=1.0).run())
    await asyncio.sleep(1.0)
    os.kill(frozen, signal.SIGSTOP)
    await _until(lambda: frozen not in [process.pid for process in _processes("Standing")])
    keeping.cancel()
    successors: list[int] = []

    def answered() -> bool:
        with contextlib.suppress(ray.exceptions.RayError):  # it is being restarted
            successors.append(ray.get(theirs.pid.remote(), timeout=_WITHIN_S))
        return bool(successors)

    await _until(answered)
    assert frozen not in successors


async def _until(condition: Any) -> None:
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < _WITHIN_S, "it did not come to that"
        await asyncio.sleep(0.05)
