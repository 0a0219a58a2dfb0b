"""One engine in virtual time: iteration-level continuous batching with chunked prefill and paged KV cache.

It schedules as vLLM does. Every step has a token budget; decoding sequences take one token each, what is
left goes to prompts in the order of arrival, in chunks. KV cache is taken in whole blocks as tokens are
computed; when it runs out, the request that joined last is preempted and computed again later. A step takes
the time that `ReplicaPerformance` says.

What makes it fast is that steps in which nothing joins or leaves are not taken one by one: as long as only
decoding goes on, the time of k steps (`segment.py`) and their blocks (`kv_blocks.py`) are closed forms.
A segment of such steps is cut when a request arrives that could join. `tests/simulation` compares it with an
engine that takes every step.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field

from cluster.entities.performance import ReplicaPerformance
from cluster.simulation.kv_blocks import KvBlocks
from cluster.simulation.meter import EngineMeter
from cluster.simulation.prefix_cache import PrefixCache
from cluster.simulation.request import SimulatedRequest
from cluster.simulation.segment import Segment


@dataclass(slots=True)
class SegmentEnd:
    """What the steps that just ended brought about."""

    first_tokens: list[SimulatedRequest] = field(default_factory=list)
    """Requests whose first token came out."""
    finished: list[SimulatedRequest] = field(default_factory=list)
    prefilled: list[SimulatedRequest] = field(default_factory=list)
    """On an engine that hands over: prompts computed, KV cache waiting to be pulled."""


class VirtualEngine:
    """An engine's batch, memory, clock and meter. Who calls it keeps the events."""

    __slots__ = (
        "_chunks",
        "_computing",
        "_finishing",
        "_fresh",
        "_hands_over",
        "_held",
        "_serial",
        "_single_steps",
        "active",
        "context_tokens",
        "decoders",
        "kv",
        "meter",
        "performance",
        "preemptions",
        "prefix_cache",
        "segment",
        "version",
        "waiting",
    )

    def __init__(
        self,
        performance: ReplicaPerformance,
        *,
        now_s: float,
        hands_over: bool = False,
        trace_block_tokens: int = 0,
        single_steps: bool = False,
    ) -> None:
        """An idle engine with its model loaded.

        Args:
            performance: its speed, memory and power.
            now_s: when it became ready.
            hands_over: a prefill engine: it computes prompts and others decode.
            trace_block_tokens: tokens in a block of the trace's prompts; 0 turns the prefix cache off.
            single_steps: take every step on its own (slow; to check the closed forms).
        """
        self.performance = performance
        self.waiting: deque[SimulatedRequest] = deque()
        self.decoders: dict[int, SimulatedRequest] = {}
        """Decoding requests by index, in the order in which they joined."""
        self.kv = KvBlocks(tokens_max=performance.kv_tokens_max, block_tokens=performance.kv_block_tokens)
        self.prefix_cache = PrefixCache(trace_block_tokens) if trace_block_tokens else None
        self.segment = Segment()
        self.meter = EngineMeter(performance.power, now_s=now_s)
        self.active = False
        """Whether the segment is under way."""
        self.version = 0
        """Grows with every change of the segment's end; an event with an older version is void."""
        self.context_tokens = 0
        """Context that the decoding sequences attend to in the next step."""
        self.preemptions = 0
        self._computing: list[SimulatedRequest] = []
        """Requests whose prompt is being computed."""
        self._chunks: list[tuple[SimulatedRequest, int]] = []
        self._fresh: list[SimulatedRequest] = []
        """Requests that joined with their KV cache and have no token yet."""
        self._finishing: list[tuple[int, int, SimulatedRequest, int]] = []
        """Heap of (step after which it is finished, serial, request, epoch)."""
        self._serial = 0
        self._hands_over = hands_over
        self._held = False
        """Memory ran out: nobody joins until somebody has left, or the two would displace each other."""
        self._single_steps = single_steps

    # What others may know of it

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self.decoders) + len(self._computing)

    @property
    def kv_cache_usage(self) -> float:
        """Fraction of blocks in use, as of the last step boundary, 0..1."""
        return min(1.0, self.kv.used / self.kv.blocks_max)

    def kv_cache_usage_at(self, now_s: float) -> float:
        """Fraction of blocks in use after the steps that are complete at an instant, 0..1."""
        kv = self.kv
        used = kv.used
        if self.active and kv.decoding and self.segment.steps > 1:
            used += kv.growth(self.segment.steps_done(now_s))
        return min(1.0, used / kv.blocks_max)

    def can_ever_hold(self, request: SimulatedRequest) -> bool:
        """Whether the request fits into the KV cache when it is alone."""
        return self.kv.of(request.prompt_tokens + request.output_tokens) <= self.kv.blocks_max

    # Changes from outside

    def submit(self, request: SimulatedRequest, now_s: float) -> bool:
        """Queue a request; True if the current segment now ends earlier than it said.

        Its `computed_tokens` say how much of the prompt comes with it as KV cache.
        """
        waiting = self.waiting
        waiting.append(request)
        if not self.active or self.segment.steps <= 1 or len(waiting) > 1:
            return False
        performance = self.performance
        if self.running >= min(performance.sequences_max, performance.batch_tokens_max - 1):
            return False
        if self.segment.cut(now_s):
            self.version += 1
            return True
        return False

    def _answers(self, request: SimulatedRequest) -> bool:
        """Whether a prefill engine makes the answer itself: the router's last resort."""
        return request.answering is not None and request.answering.replica.engine is self

    def release(self, request: SimulatedRequest) -> None:
        """Free the blocks of a prompt that has been handed over."""
        self._held = False
        self.kv.used -= self.kv.of(request.computed_tokens)

    def abort(self, request: SimulatedRequest) -> None:
        """Give up a request whose prompt is not computed yet; a chunk under way is computed in vain."""
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self._computing:
            self._computing.remove(request)
            self._chunks = [part for part in self._chunks if part[0] is not request]
            self._held = False
            self.kv.used -= self.kv.of(request.computed_tokens)

    def fail(self, now_s: float) -> list[SimulatedRequest]:
        """The engine dies; everything it had is given back, in the order of arrival."""
        done = self.segment.steps_done(now_s) if self.active else 0
        self.meter.output_tokens += done * len(self.decoders)
        for request in self.decoders.values():
            request.produced_tokens += self.kv.step + done - request.joined_step
        for request in self._fresh:
            if request.first_token_at_s > now_s:
                request.first_token_at_s = -1.0
        self.meter.settle(now_s, 0.0)
        self.active = False
        self.version += 1
        lost = [*self.decoders.values(), *self._computing, *self.waiting]
        return sorted(lost, key=lambda request: request.index)

    # The steps

    def begin(self, now_s: float) -> bool:
        """Plan the next segment of steps; False if there is nothing to do."""
        self._compose()
        decoding = len(self.decoders)
        performance = self.performance
        if not (self._chunks or decoding):
            self.active = False
            self.meter.settle(now_s, performance.power.idle_w)
            return False
        step_s = (
            performance.step_base_s
            + performance.step_per_sequence_s * decoding
            + performance.step_per_context_token_s * self.context_tokens
        )
        power_w = self.meter.decode_w(decoding)
        if self._chunks:
            prefill_s = performance.prefill_token_s * sum(chunk for _, chunk in self._chunks)
            step_s += prefill_s
            if step_s > 0:
                power_w += prefill_s / step_s * (performance.power.prefill_w - power_w)
            self.segment.start(now_s, step_s=step_s, slope_s=0.0, steps=1)
        else:
            slope_s = performance.step_per_context_token_s * decoding
            # Routers see a first token when it is out, not when the segment it began is over.
            steps = 1 if self._fresh else self._steps_until_change()
            self.segment.start(now_s, step_s=step_s, slope_s=slope_s, steps=steps)
        self.active = True
        self.version += 1
        self.meter.settle(now_s, power_w)
        for request in self._fresh:
            if request.first_token_at_s < 0.0:
                request.first_token_at_s = now_s + step_s
        return True

    def end(self, now_s: float) -> SegmentEnd:
        """Take the segment's steps; the caller then calls `begin`."""
        ended = SegmentEnd()
        steps, decoding = self.segment.steps, len(self.decoders)
        self.active = False
        self.meter.settle(now_s, self.meter.power_w)
        if decoding:
            tokens = steps * decoding
            self.context_tokens += tokens
            self.meter.decoded(decoding, steps, now_s - self.segment.start_s)
        self.kv.advance(steps)
        if self._fresh:
            ended.first_tokens, self._fresh = self._fresh, []
        finishing, step = self._finishing, self.kv.step
        while finishing and finishing[0][0] <= step:
            _, _, request, epoch = heapq.heappop(finishing)
            if request.epoch == epoch:
                self._leave(request)
                request.produced_tokens = request.output_tokens
                request.ended_at_s = now_s
                ended.finished.append(request)
        if self._chunks:
            self._take_chunks(now_s, ended)
        if ended.finished:
            self._held = False
        return ended

    def _take_chunks(self, now_s: float, ended: SegmentEnd) -> None:
        kv, meter = self.kv, self.meter
        span_s = now_s - self.segment.start_s
        for request, chunk in self._chunks:
            before = request.computed_tokens
            request.computed_tokens = before + chunk
            meter.prefill_tokens += chunk
            meter.prefill_s += span_s
            kv.used += kv.of(request.computed_tokens) - kv.of(before)
            if request.computed_tokens < request.prompt_tokens + request.produced_tokens:
                continue
            self._computing.remove(request)
            if self.prefix_cache is not None and request.blocks:
                self.prefix_cache.insert(request.blocks, free_tokens=kv.free * kv.block_tokens)
            if self._hands_over and not self._answers(request):
                ended.prefilled.append(request)
                continue
            if request.first_token_at_s < 0.0:
                request.first_token_at_s = now_s
                ended.first_tokens.append(request)
            request.produced_tokens += 1
            meter.output_tokens += 1
            if request.produced_tokens >= request.output_tokens:
                kv.used -= kv.of(request.computed_tokens)
                request.ended_at_s = now_s
                ended.finished.append(request)
            else:
                self._join(request)
        self._chunks = []

    # Composition of a step

    def _compose(self) -> None:
        """Preempt where memory is short, and else decide what the next step computes of which prompt."""
        kv = self.kv
        short = kv.growth(1) > kv.free
        while short and self.running > 1:
            self._preempt()
            short = kv.growth(1) > kv.free
            if not short and self.decoders:
                return
        self._give_chunks()
        while not self._chunks and not self.decoders and len(self._computing) > 1:
            # Prompts computed in part block each other.
            self._preempt()
            self._give_chunks()

    def _give_chunks(self) -> None:
        kv, sequences_max = self.kv, self.performance.sequences_max
        budget = self.performance.batch_tokens_max - len(self.decoders)
        free = kv.free - kv.growth(1)
        for request in self._computing:
            blocks = self._give_chunk(request, budget, free)
            if blocks < 0:
                return
            budget -= self._chunks[-1][1]
            free -= blocks
        waiting = self.waiting
        if self._held and (self.decoders or self._computing):
            return
        while waiting and budget > 0 and len(self.decoders) + len(self._computing) < sequences_max:
            request = waiting[0]
            if self.prefix_cache is not None and request.blocks and not request.computed_tokens:
                request.cached_tokens = self.prefix_cache.cached_tokens(request.blocks, request.prompt_tokens)
                request.computed_tokens = request.cached_tokens
            held = kv.of(request.computed_tokens)
            if request.computed_tokens >= request.prompt_tokens + request.produced_tokens:
                if held + 1 > free:
                    return
                kv.used += held
                self._join(request)
                self._fresh.append(request)
                blocks, tokens = 1, 1
            else:
                blocks = self._give_chunk(request, budget, free - held)
                if blocks < 0:
                    if request.cached_tokens and not request.produced_tokens:
                        # Waiting, it holds nothing; it looks again when there is room.
                        request.computed_tokens = request.cached_tokens = 0
                    return
                tokens = self._chunks[-1][1]
                kv.used += held
                self._computing.append(request)
            waiting.popleft()
            budget -= tokens
            free -= blocks + held

    def _give_chunk(self, request: SimulatedRequest, budget: int, free: int) -> int:
        """Give a prompt its part of the step; the blocks it takes, -1 if there is no room for it now."""
        computed = request.computed_tokens
        missing = request.prompt_tokens + request.produced_tokens - computed
        tokens = min(missing, budget)
        # With the last chunk comes a token of output, which needs its place too.
        blocks = self.kv.of(computed + tokens + (tokens == missing)) - self.kv.of(computed)
        if tokens <= 0 or blocks > free:
            return -1
        self._chunks.append((request, tokens))
        return blocks

    def _join(self, request: SimulatedRequest) -> None:
        """Let a request decode from the next step on."""
        kv = self.kv
        context = request.prompt_tokens + request.produced_tokens
        kv.used += kv.of(context) - kv.of(request.computed_tokens)
        kv.join(context)
        request.computed_tokens = context
        request.joined_step = kv.step
        self.decoders[request.index] = request
        self.context_tokens += context
        self._serial += 1
        finish = kv.step + request.output_tokens - request.produced_tokens
        heapq.heappush(self._finishing, (finish, self._serial, request, request.epoch))

    def _leave(self, request: SimulatedRequest) -> int:
        """Take a request out of the decoding batch; how many tokens it made there."""
        del self.decoders[request.index]
        made = self.kv.step - request.joined_step
        context = request.computed_tokens + made
        self.context_tokens -= context
        self.kv.leave(context)
        return made

    def _preempt(self) -> None:
        """Send the request that joined last back to the head of the queue; it is computed again."""
        self.preemptions += 1
        self._held = True
        if self._computing:
            request = self._computing.pop()
            self.kv.used -= self.kv.of(request.computed_tokens)
        else:
            request = next(reversed(self.decoders.values()))
            request.produced_tokens += self._leave(request)
            request.epoch += 1
        request.computed_tokens = 0
        request.cached_tokens = 0
        self.waiting.appendleft(request)

    def _steps_until_change(self) -> int:
        """How many steps go by before a request finishes or memory runs out."""
        finishing = self._finishing
        while finishing[0][2].epoch != finishing[0][3]:
            heapq.heappop(finishing)
        return 1 if self._single_steps else self.kv.steps_that_fit(finishing[0][0] - self.kv.step)
