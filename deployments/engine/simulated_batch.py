"""The timing of the simulated engine: prompts are prefilled one by one, then all decode in lockstep.

It exists apart from the HTTP surface because it is the part whose numbers matter: latencies come from
`cluster.performance.latency`, the batch size in them is the true number of sequences that decode now.
One task prefills, one task steps; a sequence only counts its tokens, so a slow reader costs no memory.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import EngineCounters
from cluster.performance.latency import decode_step_s, prefill_s


class BatchFullError(Exception):
    """As many sequences wait as may wait; the request is to be refused."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One prompt and the answer that is being counted out for it."""

    prompt_tokens: int
    output_tokens: int
    """How many tokens the answer has in the end."""
    prefilled: bool = False
    """Whether its KV cache has come from another engine, so that no prompt is computed."""
    watched: bool = False
    """Whether every token is to wake the reader, not only the last one."""
    changed: asyncio.Event
    """Shared by the sequences of one request."""
    produced: int = 0
    aborted: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.aborted or self.produced >= self.output_tokens

    def advance(self) -> None:
        """Count one more token and wake whoever reads."""
        self.produced += 1
        if self.watched or self.produced >= self.output_tokens:
            self.changed.set()


class Batch:
    """The sequences of one engine, from waiting to finished.

    The tasks start with the first sequence, on the event loop that serves it.
    """

    def __init__(self, config: SimulatedEngine, *, running_max: int, waiting_max: int) -> None:
        self._config = config
        self._running_max = running_max
        self._waiting_max = waiting_max
        self._waiting: deque[Sequence] = deque()
        """For a prefill, first come first served."""
        self._arrived: deque[Sequence] = deque()
        """With their KV cache pulled from another engine, for a place in the batch."""
        self._prefilling: Sequence | None = None
        self._decoding: dict[Sequence, None] = {}
        self._prefill_due = asyncio.Event()
        self._decode_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.prompt_tokens_total = 0
        self.output_tokens_total = 0
        self._stalled_until_s = 0.0
        self._prefill_s = 0.0
        self._gaps = 0
        self._gaps_s = 0.0

    @property
    def counters(self) -> EngineCounters:
        """What the engine has done so far."""
        return EngineCounters(
            prefill_tokens=self.prompt_tokens_total,
            prefill_s=self._prefill_s,
            output_tokens=self.output_tokens_total,
            token_gaps=self._gaps,
            token_gaps_s=self._gaps_s,
        )

    @property
    def running(self) -> int:
        """Sequences that are computed now: those that decode and the one in prefill."""
        return len(self._decoding) + (self._prefilling is not None)

    @property
    def waiting(self) -> int:
        """Sequences for which there is no room yet."""
        return len(self._waiting) + len(self._arrived)

    @property
    def context_tokens(self) -> int:
        """Tokens whose KV cache is held for running sequences."""
        held = sum(sequence.prompt_tokens + sequence.produced for sequence in self._decoding)
        return held + (self._prefilling.prompt_tokens if self._prefilling else 0)

    def add(self, sequences: list[Sequence]) -> None:
        """Take the sequences of one request.

        Raises:
            BatchFullError: they do not all fit into the waiting line; none was taken.
        """
        if self.waiting + len(sequences) > self._waiting_max:
            raise BatchFullError
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._prefill()), asyncio.create_task(self._decode())]
        for sequence in sequences:
            if sequence.prefilled:
                self._arrived.append(sequence)
            else:
                self._waiting.append(sequence)
        self._fill()
        self._prefill_due.set()

    def stall(self, seconds: float) -> None:
        """Compute nothing for so long from now on."""
        self._stalled_until_s = max(self._stalled_until_s, asyncio.get_running_loop().time()) + seconds

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence wherever it stands; its place is free at once."""
        sequence.aborted = True
        sequence.changed.set()
        for line in (self._waiting, self._arrived):
            if sequence in line:
                line.remove(sequence)
        self._decoding.pop(sequence, None)
        self._fill()
        self._prefill_due.set()

    async def aclose(self) -> None:
        """Stop the tasks. What still runs never finishes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def _fill(self) -> None:
        while self._arrived and self.running < self._running_max:
            self._decoding[self._arrived.popleft()] = None
        if self._decoding:
            self._decode_due.set()

    async def _prefill(self) -> None:
        loop = asyncio.get_running_loop()
        free_at_s = loop.time()
        while True:
            if not self._waiting or self.running >= self._running_max:
                self._prefill_due.clear()
                await self._prefill_due.wait()
                free_at_s = max(free_at_s, loop.time())
                continue
            sequence = self._prefilling = self._waiting.popleft()
            # Counted from when the engine became free, not from when this task woke: timers are late by up to
            # a millisecond, and a queue of short prompts must not add that up.
            computing_s = prefill_s(sequence.prompt_tokens, self._config.prefill_tokens_per_s)
            free_at_s = max(free_at_s, self._stalled_until_s) + computing_s
            if free_at_s > loop.time():
                await asyncio.sleep(free_at_s - loop.time())
            self._prefilling = None
            if not sequence.aborted:
                self.prompt_tokens_total += sequence.prompt_tokens
                self._prefill_s += computing_s
                self._count(sequence)
                if not sequence.finished:
                    self._decoding[sequence] = None
            self._fill()

    async def _decode(self) -> None:
        loop = asyncio.get_running_loop()
        due_at_s = loop.time()
        while True:
            if not self._decoding:
                self._decode_due.clear()
                await self._decode_due.wait()
                due_at_s = loop.time()
                continue
            # Who joins during a step takes part in the next one.
            stepping = tuple(self._decoding)
            step_s = decode_step_s(
                len(stepping),
                base_s=self._config.step_base_s,
                per_sequence_s=self._config.step_per_sequence_s,
            )
            due_at_s = max(due_at_s + step_s, self._stalled_until_s, loop.time())
            await asyncio.sleep(due_at_s - loop.time() if step_s > 0 else 0)
            self._gaps += len(stepping)
            self._gaps_s += len(stepping) * step_s
            for sequence in stepping:
                if sequence.aborted:
                    continue
                self._count(sequence)
                if sequence.finished:
                    self._decoding.pop(sequence, None)
            if self._arrived or self._waiting:
                self._fill()
                self._prefill_due.set()

    def _count(self, sequence: Sequence) -> None:
        sequence.advance()
        self.output_tokens_total += 1
