"""Steady load whose every answer is checked word for word, and what came of it second by second."""

import asyncio
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.entities.workload import Surface
from deployments.engine.simulated_requests import answer_words, prompts_of
from load_tests.chaos.cluster import MODEL
from load_tests.client import OK, StreamClient, parse_target

_LONG = "The tide rises and the wheel turns again near the old mill. " * 40
_PATIENCE_S = 30.0
"""A client that has waited so long counts as failed (`timeout`)."""
_REPEATED = 40
"""Different prompts among those that are asked again and again, for the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request, as its client saw it."""

    at_s: float
    """When it was sent, on the clock of `time.monotonic`."""
    ended_at_s: float
    kind: str
    """`ok`, or how it failed; `wrong` for other words than an undisturbed engine's."""
    ttft_s: float | None
    longest_gap_s: float


@dataclass(slots=True)
class SteadyLoad:
    """Requests at a rate, from `start` to `stop`, in a thread of their own."""

    url: str
    rate_per_s: float
    seed: int
    output_tokens: int = 40
    models: tuple[str, ...] = (MODEL,)
    """What is asked for, in turn."""
    seen: list[Seen] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def stop(self) -> list[Seen]:
        """Send no more, wait for what is under way; everything that was seen."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        return self.seen

    async def _run(self) -> None:
        client = StreamClient(parse_target(self.url), timeout_s=_PATIENCE_S)
        chance = random.Random(self.seed)
        open_requests: set[asyncio.Task[None]] = set()
        number = 0
        due_s = time.monotonic()
        while not self._stopping.is_set():
            number += 1
            task = asyncio.create_task(self._one(client, number, chance))
            open_requests.add(task)
            task.add_done_callback(open_requests.discard)
            due_s += chance.expovariate(self.rate_per_s)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        await asyncio.gather(*open_requests)
        client.close()

    async def _one(self, client: StreamClient, number: int, chance: random.Random) -> None:
        body = self._body(number, chance)
        at_s = time.monotonic()
        outcome = await client.send(body)
        kind = outcome.kind
        if kind == OK and outcome.text != _expected(body, self.output_tokens):
            kind = "wrong"
        timeline = outcome.timeline
        self.seen.append(
            Seen(
                at_s=at_s,
                ended_at_s=time.monotonic(),
                kind=kind,
                ttft_s=timeline.ttft_s,
                longest_gap_s=max(outcome.itl_s, default=0.0),
            )
        )

    def _body(self, number: int, chance: random.Random) -> dict[str, Any]:
        text = f"{self.seed}-{number} " + (_LONG if number % 3 == 0 else "hello")
        model = self.models[number % len(self.models)]
        body: dict[str, Any] = {"model": model, "max_tokens": self.output_tokens, "stream": number % 4 != 0}
        if number % 5 == 0:
            text, body["temperature"] = f"again {chance.randrange(_REPEATED)}", 0
        return {**body, "messages": [{"role": "user", "content": text}]}


def _expected(body: dict[str, Any], tokens: int) -> str:
    """What an undisturbed engine answers."""
    (prompt,) = prompts_of(Surface.CHAT, body)
    if body["model"].startswith(f"{MODEL}:"):  # an adapter, which answers in words of its own
        prompt = replace(prompt, content=f"{body['model']}\0".encode() + prompt.content)
    return " ".join(answer_words(prompt, 0, tokens))


def judged(seen: list[Seen], fault_at_s: float) -> dict[str, Any]:
    """What clients saw of a fault.

    Args:
        seen: everything, before and after.
        fault_at_s: when it began.
    """
    failed = [request for request in seen if request.kind != OK]
    before = [request for request in seen if request.ended_at_s < fault_at_s]
    after = [request for request in seen if request.ended_at_s >= fault_at_s]
    last_s = max((request.ended_at_s for request in failed), default=fault_at_s)
    return {
        "requests": len(seen),
        "failed": len(failed),
        "failed_before": sum(request.ended_at_s < fault_at_s for request in failed),
        "kinds": dict(Counter(request.kind for request in failed)),
        "failing_s": round(max(0.0, last_s - fault_at_s), 2),
        "p95_ttft_before_s": _p95([r.ttft_s for r in before if r.ttft_s is not None]),
        "p95_ttft_after_s": _p95([r.ttft_s for r in after if r.ttft_s is not None]),
        "longest_gap_s": round(max((request.longest_gap_s for request in after), default=0.0), 2),
        "longest_request_s": round(max((r.ended_at_s - r.at_s for r in after), default=0.0), 2),
    }


def _p95(values: list[float]) -> float | None:
    return round(sorted(values)[int(0.95 * (len(values) - 1))], 3) if values else None
