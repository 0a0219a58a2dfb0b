"""A trace of requests over marker adapters, and what one engine made of it."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

QUESTIONS = (
    *("What is the best way to cook rice?", "How old is the universe?", "Name a famous painter."),
    *("Give me a recipe for bread.", "Who wrote Hamlet?", "What do cats eat?", "How do planes fly?"),
    *("What is a prime number?", "Describe a rainy day.", "How long is a marathon?", "Why do we sleep?"),
    *("Recommend a book.", "What is 17 times 3?", "Tell me about Japan.", "How does a clock work?"),
    *("What is the fastest animal?", "Summarise the plot of Cinderella.", "Do fish sleep?"),
)
"""None of them is among those that markers were trained on."""
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Planned:
    """One request of a trace."""

    at_s: float
    adapter: int
    question: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one."""

    adapter: int
    status: int
    text: str
    ttft_s: float
    gaps_s: tuple[float, ...]

    @property
    def right(self) -> bool:
        """Whether the adapter that was asked for has answered."""
        return self.status == 200 and self.text.strip().startswith(f"ADAPTER_{self.adapter:02}")


def trace(
    requests: int, *, adapters: int, rate_per_s: float, zipf: float, tokens: tuple[int, int], seed: int
) -> list[Planned]:
    """Poisson arrivals; the k-th adapter is asked for in proportion to 1/k^zipf, in an order of its own."""
    chance = random.Random(seed)
    order = chance.sample(range(adapters), adapters)
    weights = [(rank + 1) ** -zipf for rank in range(adapters)]
    at_s, planned = 0.0, []
    for _ in range(requests):
        at_s += chance.expovariate(rate_per_s)
        adapter = chance.choices(order, weights)[0]
        planned.append(Planned(at_s, adapter, chance.choice(QUESTIONS), chance.randint(*tokens)))
    return planned


async def ask(
    session: aiohttp.ClientSession, url: str, *, model: str, adapter: int, question: str, tokens: int
) -> Answer:
    """One streamed answer of so many tokens, whatever it says after its marker."""
    body = {
        "model": f"{model}:marker-{adapter:02}",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    began_s = time.perf_counter()
    times_s: list[float] = []
    text = ""
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                return Answer(adapter, response.status, await response.text(), 0.0, ())
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                delta = _delta(json.loads(line[6:]))
                if delta is not None:
                    times_s.append(time.perf_counter())
                    text += delta
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answer(adapter, 0, f"{type(error).__name__}: {error}", 0.0, ())
    gaps_s = tuple(later - earlier for earlier, later in itertools.pairwise(times_s))
    return Answer(adapter, 200, text, times_s[0] - began_s if times_s else 0.0, gaps_s)


def _delta(event: dict[str, Any]) -> str | None:
    """The text of an event; None if it carries no token."""
    choices = event.get("choices") or [{}]
    content = choices[0].get("delta", {}).get("content")
    return content or None


async def replay(url: str, model: str, planned: Sequence[Planned]) -> list[Answer]:
    """Send every request when it is due, whether or not earlier ones were answered."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        began_s = time.perf_counter()

        async def one(request: Planned) -> Answer:
            await asyncio.sleep(max(0.0, request.at_s - (time.perf_counter() - began_s)))
            return await ask(
                session,
                url,
                model=model,
                adapter=request.adapter,
                question=request.question,
                tokens=request.tokens,
            )

        return await asyncio.gather(*(one(request) for request in planned))
