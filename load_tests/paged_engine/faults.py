"""What must not break an engine with a pager: busy slots, bad files, a removal in flight, a crash."""

import asyncio
import json
import shutil
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from cluster.entities.adapters import AdapterCard, AdapterCatalogue
from cluster.replay.codec import encode
from deployments.adapter_messages import CATALOGUE_PATH, STATUS_PATH
from load_tests.paged_engine.trace import QUESTIONS, Answer, ask

_LONG_TOKENS = 64
_SHORT_TOKENS = 12
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """An engine under test."""

    url: str
    process: psutil.Process
    model: str
    slots: int
    sources: dict[str, Path]
    """Folders of the marker adapters by name."""
    folder: Path
    """For damaged copies."""
    session: aiohttp.ClientSession

    async def ask(self, adapter: int, *, tokens: int = _SHORT_TOKENS, name: str = "") -> Answer:
        """One question to a marker adapter, or to another one by its name."""
        if name:
            body = {"model": f"{self.model}:{name}", "prompt": "a", "max_tokens": 1}
            async with self.session.post(f"{self.url}/v1/completions", json=body) as response:
                return Answer(adapter, response.status, await response.text(), 0.0, ())
        return await ask(
            self.session,
            self.url,
            model=self.model,
            adapter=adapter,
            question=QUESTIONS[adapter],
            tokens=tokens,
        )

    async def others_answer(self) -> bool:
        """Whether two adapters answer for themselves, one after the other."""
        return all([(await self.ask(adapter)).right for adapter in (0, 1)])

    async def status(self) -> dict[str, Any]:
        """The pager's own page."""
        async with self.session.get(f"{self.url}{STATUS_PATH}") as response:
            found: dict[str, Any] = await response.json()
            return found

    async def put_catalogue(self, **changed: str | None) -> None:
        """All marker adapters with changes: another source, or None to leave one out."""
        version = int((await self.status())["catalogue_version"]) + 1
        sources: dict[str, str | None] = {name: str(path) for name, path in self.sources.items()}
        sources |= {name.replace("_", "-"): source for name, source in changed.items()}
        cards = tuple(
            AdapterCard(name=name, base_model=self.model, source=source)
            for name, source in sorted(sources.items())
            if source is not None
        )
        catalogue = encode(AdapterCatalogue(version=version, adapters=cards))
        async with self.session.put(f"{self.url}{CATALOGUE_PATH}", json=catalogue) as response:
            response.raise_for_status()


async def all_slots_busy(bench: Bench) -> dict[str, Any]:
    """One more adapter than there are slots, while a long answer runs in each."""
    long = [asyncio.create_task(bench.ask(adapter, tokens=_LONG_TOKENS)) for adapter in range(bench.slots)]
    await _until_running(bench, bench.slots)
    late = await bench.ask(bench.slots)
    answers = [*await asyncio.gather(*long), late]
    return {"right": all(a.right for a in answers), "waited_s": late.ttft_s}


async def load_fails(bench: Bench) -> dict[str, Any]:
    """Files that are sound, and do not fit the model."""
    folder = bench.folder / "misfit"
    folder.mkdir(exist_ok=True)
    shutil.copy(bench.sources["marker-00"] / "adapter_config.json", folder)
    place = "base_model.model.model.layers.29.self_attn.q_proj.lora"
    tensors = {
        f"{place}_A.weight": {"dtype": "F32", "shape": [8, 10], "data_offsets": [0, 320]},
        f"{place}_B.weight": {"dtype": "F32", "shape": [10, 8], "data_offsets": [320, 640]},
    }
    header = json.dumps(tensors).encode()
    body = struct.pack("<Q", len(header)) + header + b"\0" * 640
    (folder / "adapter_model.safetensors").write_bytes(body)
    await bench.put_catalogue(misfit=str(folder))
    return await _refused(bench, "misfit")


async def corrupt_file(bench: Bench) -> dict[str, Any]:
    """Weights that end too early."""
    folder = bench.folder / "corrupt"
    shutil.copytree(bench.sources["marker-00"], folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    await bench.put_catalogue(corrupt=str(folder))
    return await _refused(bench, "corrupt")


async def removed_in_flight(bench: Bench) -> dict[str, Any]:
    """An adapter leaves the catalogue while it answers."""
    long = asyncio.create_task(bench.ask(2, tokens=_LONG_TOKENS))
    await _until_running(bench, 1)
    await bench.put_catalogue(marker_02=None)
    after = await bench.ask(2)
    finished = (await long).right
    others = await bench.others_answer()
    gone = all(entry["name"] != "marker-02" for entry in (await bench.status())["adapters"])
    await bench.put_catalogue()
    back = (await bench.ask(2)).right
    return {"right": finished and others and gone and back and after.status == 404}


async def engine_killed(
    bench: Bench, restart: Callable[[], Awaitable[tuple[str, psutil.Process]]]
) -> dict[str, Any]:
    """SIGKILL to the engine's core: its process ends, and the next one knows what this one had learnt."""
    source = (await bench.status())["source"]
    await asyncio.sleep(16)  # the pager saves every 15 s
    cores = [p for p in bench.process.children(recursive=True) if "EngineCore" in p.name()]
    began_s = asyncio.get_running_loop().time()
    cores[0].kill()
    await asyncio.to_thread(bench.process.wait, 30)
    ended_s = asyncio.get_running_loop().time() - began_s
    url, process = await restart()
    again = Bench(
        url=url,
        process=process,
        model=bench.model,
        slots=bench.slots,
        sources=bench.sources,
        folder=bench.folder,
        session=bench.session,
    )
    same = (await again.status())["source"] == source
    return {"right": bool(cores) and same and await again.others_answer(), "process_ended_s": ended_s}


async def _refused(bench: Bench, name: str) -> dict[str, Any]:
    """The adapter gets a clear error, the others answer, and none was harmed."""
    answer = await bench.ask(0, name=name)
    others = await bench.others_answer()
    await bench.put_catalogue()
    clear = answer.status == 500 and f"The adapter `{name}` cannot be loaded" in answer.text
    return {"right": clear and others, "status": answer.status, "said": answer.text[:300]}


async def _until_running(bench: Bench, adapters: int) -> None:
    async with asyncio.timeout(_TIMEOUT_S):
        while await _running(bench) < adapters:  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.05)


async def _running(bench: Bench) -> int:
    return sum(entry["running"] > 0 for entry in (await bench.status())["adapters"])
