"""The pager beside an engine that breaks as vLLM does: it is never misused, whatever happens."""

import asyncio
import random

import numpy as np
import pytest

from cluster.entities.adapters import AdapterOutcome, AdapterTier
from deployments.adapter_pager.entries import AdapterRefusedError, AdapterRequest
from deployments.adapter_pager.memory import PagerMemory
from tests.adapter_files import write_adapter
from tests.shell.adapter_pager.paging import DIMENSION, FakeEngine, bench


async def test_requests_of_all_adapters_are_served_and_the_engine_is_never_misused(tmp_path):
    chance = random.Random(1)
    async with bench(tmp_path, adapters=6, slots=2) as found:

        async def one():
            await asyncio.sleep(chance.random() * 0.5)
            return await found.request(f"a{chance.randrange(6)}", hold_s=chance.random() * 0.05)

        visits = await asyncio.gather(*(one() for _ in range(120)))
        assert all(visit.running is not None for visit in visits)
        assert found.engine.misuse == []
        assert not found.engine.wedged
        assert len(found.resident()) <= 2
        assert {entry.number for entry in found.pager.shelf.in_slots()} == set(found.engine.held)


async def test_one_load_serves_everybody_who_waits(tmp_path):
    async with bench(tmp_path) as found:
        await asyncio.gather(*(found.request("a0") for _ in range(20)))
        assert found.engine.loads == ["base:a0"]


async def test_a_resident_adapter_is_entered_at_once(tmp_path):
    async with bench(tmp_path) as found:
        await found.request("a0")
        visit = await found.request("a0")
        assert (visit.tier, visit.waited_s, visit.model) == (AdapterTier.DEVICE, 0.0, "base:a0")


async def test_what_left_its_slot_comes_back_from_memory(tmp_path):
    async with bench(tmp_path, slots=1) as found:
        await found.request("a0")
        await found.request("a1")
        visit = await found.request("a0")
        assert visit.tier is AdapterTier.HOST


async def test_copies_in_memory_keep_within_their_bytes(tmp_path):
    async with bench(tmp_path, slots=1, host_bytes=9000) as found:  # two of 4 kB
        for name in ("a0", "a1", "a2", "a3"):
            await found.request(name)
        assert len(found.engine.copies) <= 2
        assert (await found.request("a0")).tier is AdapterTier.DISK


async def test_adapters_are_copied_into_memory_ahead_of_need_while_there_is_room(tmp_path):
    async with bench(tmp_path, adapters=4, host_bytes=13_000) as found:  # three of 4 kB
        async with asyncio.timeout(10):
            while len(found.engine.copies) < 3:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert len(found.engine.copies) == 3
        assert found.engine.held == {}


async def test_requests_line_up_behind_the_load_of_what_is_in_memory(tmp_path):
    async with bench(tmp_path, slots=1) as found:
        await found.request("a0")
        await found.request("a1")
        found.engine.load_s = 0.5
        visit = await found.pager.enter(AdapterRequest(adapter="a0"))
        assert visit.waited_s < 0.25
        assert visit.running.entry.number in found.engine.coming
        with found.engine.running(visit.running.entry.number):
            await asyncio.sleep(0.6)
        found.pager.leave(visit.running)
        assert found.engine.misuse == []
        assert found.resident() == {"a0"}


async def test_without_a_copy_in_memory_they_wait_for_its_end(tmp_path):
    async with bench(tmp_path, slots=1, engine=FakeEngine(1, copies=False, load_s=0.3)) as found:
        visit = await found.request("a0")
        assert visit.waited_s > 0.25
        assert found.engine.misuse == []


async def test_an_engine_that_keeps_no_copies_is_given_none(tmp_path):
    async with bench(tmp_path, slots=1, engine=FakeEngine(1, copies=False)) as found:
        await found.request("a0")
        await found.request("a1")
        assert (await found.request("a0")).tier is AdapterTier.DISK
        assert found.engine.misuse == []


async def test_an_adapter_in_use_keeps_its_slot_until_its_requests_end(tmp_path):
    async with bench(tmp_path, slots=1, drain_s=30) as found:
        long = asyncio.create_task(found.request("a0", hold_s=0.3))
        await found.until_running("a0")
        visit = await found.request("a1")
        assert long.done()
        assert visit.waited_s > 0.05
        assert found.engine.misuse == []


async def test_a_stream_of_requests_cannot_starve_another_adapter(tmp_path):
    async with bench(tmp_path, slots=1, drain_s=0.2) as found:
        stop = asyncio.Event()

        async def keep_busy():
            while not stop.is_set():
                await found.request("a0", hold_s=0.05)

        streams = []
        for _ in range(3):
            streams.append(asyncio.create_task(keep_busy()))
            await asyncio.sleep(0.02)
        visit = await asyncio.wait_for(found.request("a1"), 2)
        stop.set()
        await asyncio.gather(*streams)
        assert 0.15 < visit.waited_s < 1.5
        assert found.engine.misuse == []


async def test_an_overloaded_engine_is_given_no_more_than_it_runs_and_every_adapter_has_its_turn(tmp_path):
    async with bench(tmp_path, adapters=4, slots=2, drain_s=0.05, running_max=2) as found:
        most = 0

        async def one(number):
            nonlocal most
            visit = await found.request(f"a{number % 4 if number % 3 else 0}", hold_s=0.02)
            most = max(most, found.pager.running)
            return visit

        visits = await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(80))), 30)
        assert {visit.adapter for visit in visits} == {"a0", "a1", "a2", "a3"}
        assert most <= 2
        assert found.engine.misuse == []


async def test_the_adapter_with_the_least_work_left_is_drained(tmp_path):
    async with bench(tmp_path, slots=2, drain_s=0.05) as found:
        slow = asyncio.create_task(found.request("a0", hold_s=1.0, tokens_max=1000))
        quick = asyncio.create_task(found.request("a1", hold_s=1.0, tokens_max=10))
        await found.until_running("a0", "a1")
        waiting = asyncio.create_task(found.request("a2"))
        await asyncio.sleep(0.4)
        assert [e.card.name for e in found.pager.shelf if e.draining] == ["a1"]
        await asyncio.gather(slow, quick, waiting)


async def test_too_long_a_wait_ends_with_503_and_leaves_nothing_behind(tmp_path):
    async with bench(tmp_path, slots=1, park_timeout_s=0.5, drain_s=30) as found:
        long = asyncio.create_task(found.request("a0", hold_s=1.0))
        await found.until_running("a0")
        with pytest.raises(AdapterRefusedError) as caught:
            await found.request("a1")
        assert (caught.value.status, caught.value.code) == (503, "adapter_wait_timed_out")
        assert caught.value.retry_after_s == 1
        assert found.pager.shelf.parked == 0
        await long
        await found.request("a1")


async def test_no_more_than_so_many_wait(tmp_path):
    async with bench(tmp_path, slots=1, parked_max=2, drain_s=30) as found:
        long = asyncio.create_task(found.request("a0", hold_s=0.2))
        await found.until_running("a0")
        waiting = [asyncio.create_task(found.request("a1")) for _ in range(2)]
        await found.until_parked(2)
        with pytest.raises(AdapterRefusedError) as caught:
            await found.request("a2")
        assert (caught.value.status, caught.value.code) == (503, "adapters_busy")
        await asyncio.gather(long, *waiting)


async def test_who_stops_waiting_is_not_counted_in(tmp_path):
    async with bench(tmp_path, slots=1, drain_s=30) as found:
        long = asyncio.create_task(found.request("a0", hold_s=0.2))
        await found.until_running("a0")
        leaving = asyncio.create_task(found.request("a1"))
        await found.until_parked(1)
        leaving.cancel()
        await long
        await found.request("a2")
        assert found.engine.loads == ["base:a0", "base:a2"]
        assert all(not entry.running for entry in found.pager.shelf)


async def test_a_load_that_fails_hurts_nobody_else(tmp_path):
    async with bench(tmp_path) as found:
        found.engine.broken.add("base:a1")
        with pytest.raises(AdapterRefusedError, match="`a1` cannot be loaded: the shapes do not match"):
            await found.request("a1")
        for name in ("a0", "a2", "a3"):
            await found.request(name)
        with pytest.raises(AdapterRefusedError) as caught:  # at once, without another try
            await found.request("a1")
        assert caught.value.status == 500
        assert found.engine.misuse == []


async def test_a_failed_adapter_is_tried_again_later(tmp_path):
    async with bench(tmp_path) as found:
        found.engine.broken.add("base:a1")
        with pytest.raises(AdapterRefusedError):
            await found.request("a1")
        found.engine.broken.clear()
        await asyncio.sleep(1.1)
        assert (await found.request("a1")).adapter == "a1"


async def test_a_damaged_file_is_a_clear_error_and_others_are_served(tmp_path):
    async with bench(tmp_path) as found:
        weights = found.sources["a1"] / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        found.sources["b"] = found.sources.pop("a1")
        found.pager.set_catalogue(found.catalogue())
        with pytest.raises(AdapterRefusedError, match=r"has 4\d+ bytes and its header says"):
            await found.request("b")
        await found.request("a0")


async def test_damage_on_the_own_disk_is_mended_from_the_source(tmp_path):
    async with bench(tmp_path, slots=1, host_bytes=0) as found:
        await found.request("a0")
        await found.request("a1")
        entry = found.pager.shelf.by_name["a0"]
        weights = entry.path / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        entry.staged_at_s = float("-inf")  # as if it were long ago
        assert (await found.request("a0")).adapter == "a0"
        assert weights.read_bytes()[-1:] != b"?"


async def test_an_adapter_that_is_removed_ends_its_requests_first(tmp_path):
    async with bench(tmp_path) as found:
        running = asyncio.create_task(found.request("a0", hold_s=0.2))
        await found.until_running("a0")
        found.pager.set_catalogue(found.catalogue("a1", "a2"))
        with pytest.raises(AdapterRefusedError) as caught:
            await found.request("a0")
        assert caught.value.status == 404
        await running
        await asyncio.sleep(0.05)
        assert found.engine.misuse == []
        assert found.engine.held == {}
        assert found.pager.shelf.leaving == []


async def test_new_weights_under_an_old_name_wait_for_the_old_ones_requests(tmp_path):
    async with bench(tmp_path, slots=2) as found:
        old = asyncio.create_task(found.request("a0", hold_s=0.2))
        await found.until_running("a0")
        before = found.pager.shelf.by_name["a0"]
        found.sources["a0"] = write_adapter(tmp_path / "other", 99)
        found.pager.set_catalogue(found.catalogue())
        visit = await found.request("a0")
        assert old.done()
        assert visit.running.entry.number != before.number
        assert visit.running.entry.path != before.path
        assert found.engine.misuse == []


async def test_an_older_catalogue_is_ignored(tmp_path):
    async with bench(tmp_path) as found:
        old = found.catalogue("a0")
        found.pager.set_catalogue(found.catalogue())
        assert found.pager.set_catalogue(old) == found.version
        await found.request("a4")


async def test_pinned_adapters_stay_and_never_take_the_last_slot(tmp_path):
    async with bench(tmp_path, slots=2) as found:
        pins = {name: {"pinned": True} for name in ("a0", "a1")}
        found.pager.set_catalogue(found.catalogue(**pins))
        for name in ("a0", "a1", "a2", "a3", "a1"):
            await found.request(name)
        assert "a0" in found.resident()
        assert not found.pager.shelf.by_name["a1"].card.pinned
        assert found.engine.misuse == []


async def test_a_request_that_left_its_adapter_open_may_be_answered_by_another(tmp_path):
    async with bench(tmp_path, slots=1, degrade="resident", degrade_after_s=0.1, drain_s=30) as found:
        long = asyncio.create_task(found.request("a0", hold_s=1.0))
        await found.until_running("a0")
        x = (1.0, 0.0, 0.0, 0.0)
        assert (await found.request("a1", open=True, x=x)).adapter == "a0"
        await long


async def test_or_by_the_base_model(tmp_path):
    async with bench(tmp_path, slots=1, degrade="base", degrade_after_s=0.1, drain_s=30) as found:
        long = asyncio.create_task(found.request("a0", hold_s=1.0))
        await found.until_running("a0")
        visit = await found.request("a1", open=True)
        assert (visit.adapter, visit.model, visit.running) == ("", "", None)
        named = asyncio.create_task(found.request("a2"))  # asked for by name: it waits
        await long
        assert (await named).adapter == "a2"


async def test_and_at_once_if_its_own_adapter_cannot_be_loaded(tmp_path):
    async with bench(tmp_path, degrade="base") as found:
        found.engine.broken.add("base:a1")
        assert (await found.request("a1", open=True)).running is None
        with pytest.raises(AdapterRefusedError):
            await found.request("a1")


async def test_what_was_learnt_survives_and_residency_is_asked_of_the_engine(tmp_path):
    async with bench(tmp_path) as found:
        await found.request("a0")
        key = found.pager.shelf.by_name["a0"].key
        number = found.pager.shelf.by_name["a0"].number
        outcome = AdapterOutcome(id="d1", adapter=key, x=(1.0,) * DIMENSION, utility=1.0)
        assert found.pager.outcomes.learn([outcome, outcome]) == 1
        source = found.memory.source
        theta = found.pager.core.estimates().theta[found.pager.core.row(key)]
        await found.pager.stop()
        # the engine was restarted, too, and somebody else left something in it
        found.engine.held.clear()
        found.engine.held[77] = found.engine.held.get(77)
        pager = found.restarted()
        await pager.start()
        pager.set_catalogue(found.catalogue())
        assert found.engine.held == {}
        visit = await found.request("a0")
        assert visit.tier is not AdapterTier.DEVICE
        assert found.memory.source == source
        assert pager.shelf.by_name["a0"].number == number
        assert np.allclose(pager.core.estimates().theta[pager.core.row(key)], theta)


async def test_a_crash_right_after_the_start_does_not_cost_the_name(tmp_path):
    async with bench(tmp_path) as found:
        source = found.memory.source
        async with asyncio.timeout(10):
            while not (tmp_path / "state" / "pool-0" / "state.npz").exists():
                await asyncio.sleep(0.01)
        await found.pager.loop.stop()
        found.memory.close()
        again = PagerMemory(tmp_path / "state", "pool", encoder="e", dimension=DIMENSION)
        assert again.source == source
        again.close()


async def test_a_torn_state_file_gives_way_to_the_one_before(tmp_path):
    async with bench(tmp_path) as found:
        await found.request("a0")
        await found.memory.save(found.pager.core)
        await found.request("a1")
        await found.memory.save(found.pager.core)
        source = found.memory.source
        await found.pager.stop()
        newest = tmp_path / "state" / "pool-0" / "state.npz"
        newest.write_bytes(newest.read_bytes()[:200])
        found.restarted()
        assert found.memory.source == source
        await found.pager.start()


async def test_two_replicas_of_a_pool_keep_their_states_apart(tmp_path):
    async with bench(tmp_path) as first, bench(tmp_path) as second:
        assert first.memory.source != second.memory.source
