"""Fits the step time of `ReplicaPerformance` to what a client sees of a running engine.

A span of engine steps takes steps·W + s·(decoding sequences, summed over the steps) + c·(context tokens they
attend to, summed) + p·(prompt tokens computed), and if it is a time to first token a constant more, for HTTP
and for the processes between client and engine. That is linear in five numbers, none of which is negative.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.optimize import nnls

from load_tests.validity.engine import BATCH_TOKENS_MAX, Answer, Engine

_SAME_STEP_S = 0.02
"""Tokens of one step reach the client within this; no step is as short."""
_BATCHES = (1, 2, 4, 8, 12)
_CONTEXTS_TOKENS = (16, 192)
_WIDE_BATCH, _WIDE_CONTEXT_TOKENS = 8, 64
"""Wider batches than this are calibrated only with shorter contexts than that: computing them takes long."""
_DECODE_STEPS = 12
_PROMPTS_TOKENS = (8, 40, 80, 128, 200, 320)
_MIXED_PROMPTS_TOKENS = (24, 100, 200)
_MIXED_BATCH, _MIXED_CONTEXT_TOKENS, _MIXED_ANSWER_TOKENS = 3, 32, 36
_FIT_PASSES = 4
_SETTLE_S = 0.8
"""Until the sequences decode among which prompts are computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A span of engine steps."""

    kind: str
    """`decode`, `prefill`, `mixed` or `open`."""
    took_s: float
    steps: int
    sequence_steps: int = 0
    """Decoding sequences, summed over the steps."""
    context_tokens: int = 0
    """Context tokens that they attended to, summed over the steps."""
    prompt_tokens: int = 0
    """Computed in these steps."""
    first_token: bool = False
    """Whether this is a time to first token, with what it costs to reach the engine."""

    @property
    def terms(self) -> tuple[float, ...]:
        """What multiplies the fitted numbers, in their order in `StepTimes`."""
        counts = (self.steps, self.sequence_steps, self.context_tokens, self.prompt_tokens, self.first_token)
        return tuple(map(float, counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """The fitted numbers; the first four as in `ReplicaPerformance`."""

    step_base_s: float
    step_per_sequence_s: float
    step_per_context_token_s: float
    prefill_token_s: float
    first_token_s: float
    """Added to a time to first token: client, HTTP, and what is between them and the engine."""

    def scaled(self, factor: float) -> "StepTimes":
        """Of an engine that takes so many times as long."""
        return StepTimes(**{name: value * factor for name, value in asdict(self).items()})

    def of(self, sample: Sample) -> float:
        """Predicted duration of a span, in seconds."""
        numbers = (
            self.step_base_s,
            self.step_per_sequence_s,
            self.step_per_context_token_s,
            self.prefill_token_s,
            self.first_token_s,
        )
        return sum(term * number for term, number in zip(sample.terms, numbers, strict=True))


def fit(samples: Sequence[Sample]) -> StepTimes:
    """Non-negative least squares of relative errors, so that short spans count as much as long ones.

    Raises:
        ValueError: there are fewer samples than numbers.
    """
    if len(samples) < len(samples[0].terms if samples else (0,)):
        raise ValueError(f"{len(samples)} samples say too little")
    took_s = np.array([sample.took_s for sample in samples])
    terms = np.array([sample.terms for sample in samples])
    # Columns of like size: a context token costs a hundred-thousandth of a step.
    sizes = np.maximum(terms.max(axis=0), 1e-12)
    terms /= sizes
    weight_s = took_s
    for _ in range(_FIT_PASSES):
        found, _ = nnls(terms / weight_s[:, None], took_s / weight_s)
        # Relative to what is expected, not to what was seen: that would count slow spans for less.
        weight_s = np.maximum(terms @ found, 1e-9)
    base, sequence, context, prefill, first = (float(value) for value in found / sizes)
    return StepTimes(
        step_base_s=base,
        step_per_sequence_s=sequence,
        step_per_context_token_s=context,
        prefill_token_s=prefill,
        first_token_s=first,
    )


def errors(samples: Sequence[Sample], times: StepTimes) -> dict[str, float]:
    """Mean absolute relative error of the fit by kind of sample."""
    found: dict[str, list[float]] = {}
    for sample in samples:
        found.setdefault(sample.kind, []).append(abs(times.of(sample) / sample.took_s - 1.0))
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def decode_sample(answers: Sequence[Answer], prompt_tokens: int) -> Sample | None:
    """The steps in which all of a batch decode and nothing else happens; None if there are none.

    Args:
        answers: of requests that were sent at the same time.
        prompt_tokens: of each of them.
    """
    last = max(answers, key=lambda answer: answer.tokens_at_s[0])
    start_s, end_s = last.tokens_at_s[0], min(answer.tokens_at_s[-1] for answer in answers)
    steps = _tokens_by(last, end_s) - 1
    if steps < 1:
        return None
    context = sum(prompt_tokens + _tokens_by(answer, start_s) for answer in answers)
    return Sample(
        kind="decode",
        took_s=last.tokens_at_s[steps] - start_s,
        steps=steps,
        sequence_steps=steps * len(answers),
        context_tokens=steps * context + len(answers) * steps * (steps - 1) // 2,
    )


def mixed_sample(
    decoding: Sequence[Answer], context_tokens: int, joined: Answer, prompt_tokens: int
) -> Sample | None:
    """The step in which a prompt was computed beside decoding sequences; None if one of them was over.

    Args:
        decoding: the sequences.
        context_tokens: length of each of their prompts.
        joined: whose prompt it was; its first token came with that step.
        prompt_tokens: length of it, no more than one step computes.
    """
    at_s = joined.tokens_at_s[0]
    made = [_tokens_by(answer, at_s) for answer in decoding]
    if any(
        abs(a.tokens_at_s[n - 1] - at_s) > _SAME_STEP_S or n < 2 for a, n in zip(decoding, made, strict=True)
    ):
        return None
    gaps_s = [a.tokens_at_s[n - 1] - a.tokens_at_s[n - 2] for a, n in zip(decoding, made, strict=True)]
    return Sample(
        kind="mixed",
        took_s=float(np.mean(gaps_s)),
        steps=1,
        sequence_steps=len(decoding),
        context_tokens=sum(context_tokens + count - 1 for count in made),
        prompt_tokens=prompt_tokens,
    )


def open_samples(answers: Sequence[tuple[Answer, int]]) -> list[Sample]:
    """Steps of an open loop whose composition is certain from the outside.

    Tokens that come together are of one step. It is taken if all sequences of it decoded in the step before
    too, so that the engine was not idle between them, and if a prompt that ended in it fits into one step and
    cannot have been shared with a step beside it.

    Args:
        answers: every request that was there, with the tokens of its prompt.
    """
    events = sorted(
        (at_s, number, place)
        for number, (answer, _) in enumerate(answers)
        for place, at_s in enumerate(answer.tokens_at_s)
    )
    steps: list[list[tuple[float, int, int]]] = []
    for event in events:
        if not steps or event[0] > steps[-1][0][0] + _SAME_STEP_S:
            steps.append([])
        steps[-1].append(event)
    prompts = [prompt for _, prompt in answers]
    found = (_open_sample(around, prompts) for around in zip(steps, steps[1:], steps[2:], strict=False))
    return [sample for sample in found if sample is not None]


def _open_sample(around: Sequence[list[tuple[float, int, int]]], prompts: Sequence[int]) -> Sample | None:
    before, here, after = around
    made_before = {(number, place) for _, number, place in before}
    decoding = [(number, place) for _, number, place in here if place]
    computed = sum(prompts[number] for _, number, place in here if not place)
    if not decoding or any((number, place - 1) not in made_before for number, place in decoding):
        return None
    beside = any(not place for _, _, place in (*before, *after))
    if beside or computed > BATCH_TOKENS_MAX - len(decoding):
        return None
    return Sample(
        kind="open",
        took_s=here[0][0] - before[0][0],
        steps=1,
        sequence_steps=len(decoding),
        context_tokens=sum(prompts[number] + place for number, place in decoding),
        prompt_tokens=computed,
    )


def _tokens_by(answer: Answer, at_s: float) -> int:
    """Tokens that had come when the step that ended at an instant was over."""
    return sum(1 for token_at_s in answer.tokens_at_s if token_at_s <= at_s + _SAME_STEP_S)


async def calibrate(engine: Engine) -> list[Sample]:
    """Ask a quiet engine for batches, prompts and mixtures of known composition."""
    return [*await _decode(engine), *await _prefill(engine), *await _mixed(engine)]


async def _decode(engine: Engine) -> list[Sample]:
    found = []
    for context in _CONTEXTS_TOKENS:
        for batch in _BATCHES:
            if batch > _WIDE_BATCH and context > _WIDE_CONTEXT_TOKENS:
                continue
            # Prompts are computed one after the other, and the first must not be over before the last joins.
            tokens = _DECODE_STEPS + batch
            answers = await asyncio.gather(*(engine.ask(context, tokens) for _ in range(batch)))
            found.append(decode_sample(answers, context))
    return [sample for sample in found if sample is not None]


async def _prefill(engine: Engine) -> list[Sample]:
    return [
        Sample(
            kind="prefill",
            took_s=(await engine.ask(prompt, 1)).ttft_s,
            steps=math.ceil(prompt / BATCH_TOKENS_MAX),
            prompt_tokens=prompt,
            first_token=True,
        )
        for prompt in _PROMPTS_TOKENS
    ]


async def _mixed(engine: Engine) -> list[Sample]:
    asked = [
        asyncio.create_task(engine.ask(_MIXED_CONTEXT_TOKENS, _MIXED_ANSWER_TOKENS))
        for _ in range(_MIXED_BATCH)
    ]
    await asyncio.sleep(_SETTLE_S)
    joined = [(await engine.ask(prompt, 1), prompt) for prompt in _MIXED_PROMPTS_TOKENS]
    decoding = await asyncio.gather(*asked)
    found = [mixed_sample(decoding, _MIXED_CONTEXT_TOKENS, answer, prompt) for answer, prompt in joined]
    return [sample for sample in found if sample is not None]
