"""Networks that are slow and break, and clocks that jump: requests end whole all the same."""

import asyncio
import contextlib
import random
from dataclasses import replace
from typing import Any

import pytest

from cluster.entities.workload import Surface
from deployments.engine.simulated_requests import answer_words, prompts_of

TOKENS = 24


class BadLink:
    """A way to one engine that delays every piece and resets connections now and then."""

    def __init__(self, port: int, *, delay_s: float, reset_ratio: float, seed: int) -> None:
        self._port = port
        self._delay_s = delay_s
        self._reset_ratio = reset_ratio
        self._chance = random.Random(seed)
        self._server: asyncio.Server | None = None
        self.resets = 0

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        there = asyncio.create_task(self._pump(reader, far_writer, breaks=False))
        back = asyncio.create_task(self._pump(far_reader, writer, breaks=True))
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for task in (there, back):
            task.cancel()
        for end in (writer, far_writer):
            end.transport.abort()

    async def _pump(self, reader: Any, writer: Any, *, breaks: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(512):
                await asyncio.sleep(self._delay_s)
                if breaks and self._chance.random() < self._reset_ratio:
                    self.resets += 1
                    return
                writer.write(piece)
                await writer.drain()


@pytest.fixture
async def behind_bad_links(cluster):
    """The little cluster with every engine at the other end of a bad link."""
    links = []
    for number, (name, engine) in enumerate(list(cluster.engines.items())):
        port = int(engine.report.url.rsplit(":", 1)[1])
        link = BadLink(port, delay_s=0.005, reset_ratio=0.01, seed=number)
        links.append(link)
        cluster.engines[name].report = replace(engine.report, url=await link.start())
    cluster.tell()
    yield cluster, links
    for link in links:
        await link.close()


def said(answer: Any) -> str:
    return "".join(c["delta"].get("content") or "" for e in answer.events[:-1] for c in e["choices"])


async def test_streams_over_slow_links_that_break_end_whole(behind_bad_links, given):
    cluster, links = behind_bad_links

    async def ask(number: int) -> Any:
        text = f"{number} " + (given.long_prompt if number % 4 == 0 else "hello")
        answer = await cluster.chat(text, stream=True, max_tokens=TOKENS)
        (prompt,) = prompts_of(Surface.CHAT, {"messages": [{"role": "user", "content": text}]})
        assert answer.events[-1] == "[DONE]", answer.events[-1]
        assert said(answer) == " ".join(answer_words(prompt, 0, TOKENS))

    for batch in range(4):
        await asyncio.gather(*(ask(16 * batch + number) for number in range(16)))
    assert sum(link.resets for link in links) > 5
    await cluster.assert_idle()


@pytest.mark.parametrize("jump_s", [-7200.0, 7200.0])
async def test_a_wall_clock_that_jumps_costs_nothing(cluster, jump_s):
    offset_s = 0.0
    right = cluster.core.wall_s

    def wrong() -> float:
        return right() + offset_s

    cluster.core.wall_s = wrong
    asking = [asyncio.create_task(cluster.chat(f"{n}", stream=True, max_tokens=TOKENS)) for n in range(12)]
    await asyncio.sleep(0.01)
    offset_s = jump_s
    asking += [asyncio.create_task(cluster.chat(f"later {n}", max_tokens=TOKENS)) for n in range(12)]
    answers = await asyncio.gather(*asking)
    assert [answer.status for answer in answers] == [200] * 24
    records = [await cluster.decision(answer) for answer in answers]
    assert len({record["decision_id"] for record in records}) == 24
    assert all(r["timeline"]["ended_at_s"] >= r["timeline"]["arrived_at_s"] for r in records)
    await cluster.assert_idle()
