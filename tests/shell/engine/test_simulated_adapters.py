"""The simulated engine's slots break as vLLM's do, so that a fleet without a model shows misuse."""

import asyncio

from cluster.config.pools import SimulatedEngine
from deployments.adapter_pager.backend import EngineAdapter
from deployments.engine.simulated_adapters import SimulatedAdapters
from deployments.engine.simulated_batch import Batch, Sequence

CONFIG = SimulatedEngine(step_base_s=0.001, adapter_read_bytes_per_s=10_000, adapter_copy_bytes_per_s=20_000)


def adapter(number):
    return EngineAdapter(name=f"base:a{number}", number=number, path=f"/a{number}", bytes=1000)


def engine(slots=2):
    return SimulatedAdapters(CONFIG, Batch(CONFIG, running_max=8, waiting_max=8), slots=slots)


async def test_a_full_engine_throws_out_what_was_used_longest_ago():
    found = engine()
    for number in (1, 2, 3):
        await found.swap((), adapter(number))
    assert (await found.report()).held == {2, 3}
    assert found.engine_evictions == 1


async def test_a_request_without_its_adapter_has_it_loaded_in_a_step():
    found = engine()
    await found.swap((), adapter(1))
    await found.swap((), adapter(2))
    await found.swap((), adapter(3))
    found.used("base:a1")  # still in the registry
    assert found.engine_loads == 1


async def test_a_prepared_adapter_stops_the_engine_for_a_shorter_time():
    found = engine()
    await found.prepare(adapter(1))
    await found.swap((), adapter(1))
    prepared_s = (await found.report()).load_s
    await found.swap((), adapter(2))
    assert (await found.report()).load_s - prepared_s > 2 * prepared_s


async def test_a_load_stops_running_sequences():
    batch = Batch(CONFIG, running_max=8, waiting_max=8)
    found = SimulatedAdapters(CONFIG, batch, slots=2)
    running = Sequence(prompt_tokens=1, output_tokens=1000, changed=asyncio.Event())
    batch.add([running])
    await asyncio.sleep(0.05)
    loading = asyncio.create_task(found.swap((), adapter(1)))  # 0.15 s
    await asyncio.sleep(0.03)
    before = running.produced
    await asyncio.sleep(0.07)
    assert running.produced <= before + 1
    await loading
    await asyncio.sleep(0.05)
    assert running.produced > before + 1
    assert (await found.report()).stall_s > 0.1
    await batch.aclose()
