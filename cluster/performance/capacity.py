"""What a replica can carry: step time, batch, latency and power at a load in closed form, and the inverse.

Derivation. A step takes W + g·b + h·C + p·t (`ReplicaPerformance`). In a steady state with λ requests per
second, each of s uncached prompt tokens and o output tokens at a mean context of c, a step of length τ
computes t = λ·s·τ prompt tokens and holds b = λ·o·τ decoding sequences. Put in, τ = W + ρ·τ with
ρ = λ·(p·s + o·(g + h·c)), hence τ = W / (1 − ρ): the load slows every step, and ρ = 1 is the limit whatever
latency is accepted. Memory (KV cache by actual tokens), max_num_seqs, the token budget and the objectives for
TTFT and TPOT usually bind earlier; `rate_max` is the largest λ at which none does.

TTFT waits for prompt computation as a queue M/G/n, n replicas of which the least loaded is chosen
(Sakasegawa 1977), plus the prompt's own chunks, plus the step that is under way.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from statistics import NormalDist

from cluster.entities.performance import ReplicaPerformance
from cluster.performance.power import decode_w

_KV_SHARE = 0.98
"""Of the KV cache: the rest lies in blocks that are not full."""
_CONTEXT_SPREAD2 = 1.0
"""Squared coefficient of variation of the context of requests under way: exponential lengths."""
_BISECTIONS = 30


class Work(StrEnum):
    """Which part of its requests a replica does."""

    WHOLE = "whole"
    PROMPTS = "prompts"
    """Prefill only: the answer is made elsewhere."""
    ANSWERS = "answers"
    """Decode only: prompts come with their KV cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What requests are like on average. Tokens per request."""

    prompt_tokens: float
    """All of the prompt: what its KV cache holds."""
    uncached_tokens: float
    """What has to be computed."""
    uncached_tokens_squared: float
    """Mean square, for the spread of prefill times."""
    output_tokens: float
    context_tokens: float
    """Mean over decode steps, which is more than the mean prompt and half of the mean answer: of answers that
    differ in length, the long ones have most of the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is promised, and to which share of requests."""

    ttft_s: float
    tpot_s: float
    attainment: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """One replica at a load."""

    utilisation: float
    """ρ: share of the time that the load itself takes; 1 is the limit."""
    batch: float
    """b: mean of decoding sequences."""
    tpot_s: float
    """At the wanted quantile; infinite when overloaded."""
    ttft_s: float
    """At the wanted quantile; infinite when overloaded."""
    kv_tokens: float
    """Mean of tokens that the KV cache holds."""
    power_w: float


def request_s(performance: ReplicaPerformance, mix: Mix, work: Work = Work.WHOLE) -> float:
    """Engine time that a request takes beyond the W of the steps it shares, in seconds: ρ per request/s."""
    prompt_s = performance.prefill_token_s * mix.uncached_tokens
    answer_s = mix.output_tokens * (
        performance.step_per_sequence_s + performance.step_per_context_token_s * mix.context_tokens
    )
    if work is Work.PROMPTS:
        # Nobody decodes, so that nothing is shared: each chunk's W is the prompt's own.
        return prompt_s + _chunks(performance, mix.uncached_tokens) * performance.step_base_s
    return answer_s if work is Work.ANSWERS else prompt_s + answer_s


def operating_point(
    performance: ReplicaPerformance,
    mix: Mix,
    rate_per_s: float,
    *,
    replicas: int = 1,
    work: Work = Work.WHOLE,
    attainment: float = 0.95,
) -> OperatingPoint:
    """Where a replica settles at a load.

    Args:
        performance: the replica.
        mix: what its requests are like.
        rate_per_s: λ, requests per second on this replica.
        replicas: n, how many alike share the queue; prompts wait less where there are more to choose from.
        work: which part of the requests it does.
        attainment: the quantile at which latencies are given, 0..1.
    """
    each_s = request_s(performance, mix, work)
    utilisation = rate_per_s * each_s
    if utilisation >= 1.0:
        return _overloaded(performance, mix, utilisation)
    z = NormalDist().inv_cdf(attainment)
    if work is Work.PROMPTS:
        return _prompts_only(performance, mix, rate_per_s, replicas, z)
    computed = 0.0 if work is Work.ANSWERS else mix.uncached_tokens
    prompts_s = rate_per_s * performance.prefill_token_s * computed
    sequence_s = performance.step_per_sequence_s + performance.step_per_context_token_s * mix.context_tokens
    alone_s = (performance.step_base_s + sequence_s) / (1.0 - prompts_s)
    step_s = max(performance.step_base_s / (1.0 - utilisation), alone_s)
    batch = rate_per_s * mix.output_tokens * step_s
    # The number of requests under way spreads about as a Poisson variable does.
    batch_high = batch + z * math.sqrt(batch)
    tpot_s = max(alone_s, (performance.step_base_s + sequence_s * batch_high) / (1.0 - prompts_s))
    if work is Work.WHOLE and mix.output_tokens > 0:
        # Prompts of others come between an answer's tokens: a compound Poisson process over its duration.
        # Short answers feel it most; half the mean length stands for them.
        spread = performance.prefill_token_s * math.sqrt(
            rate_per_s * step_s * mix.uncached_tokens_squared / (mix.output_tokens / 2.0)
        )
        tpot_s = step_s + math.hypot(tpot_s - step_s, z * spread) if tpot_s > step_s else tpot_s
    ttft_s = step_s
    if work is Work.WHOLE:
        budget = max(1.0, performance.batch_tokens_max - batch)
        decoding_s = performance.step_base_s + sequence_s * batch
        ttft_s += _ttft_s(performance, mix, rate_per_s, replicas, z, budget=budget, step_s=decoding_s)
    return OperatingPoint(
        utilisation=utilisation,
        batch=batch,
        tpot_s=tpot_s,
        ttft_s=ttft_s,
        kv_tokens=batch * mix.context_tokens,
        power_w=_power_w(performance, batch, prompts_s),
    )


def _overloaded(performance: ReplicaPerformance, mix: Mix, utilisation: float) -> OperatingPoint:
    by_memory = performance.kv_tokens_max / max(1.0, mix.context_tokens)
    batch = min(float(performance.sequences_max), by_memory)
    return OperatingPoint(
        utilisation=utilisation,
        batch=batch,
        tpot_s=math.inf,
        ttft_s=math.inf,
        kv_tokens=batch * mix.context_tokens,
        power_w=max(decode_w(performance.power, batch), performance.power.prefill_w),
    )


def _prompts_only(
    performance: ReplicaPerformance, mix: Mix, rate_per_s: float, replicas: int, z: float
) -> OperatingPoint:
    each_s = request_s(performance, mix, Work.PROMPTS)
    busy = rate_per_s * each_s
    budget = float(performance.batch_tokens_max)
    waited_s = _ttft_s(
        performance, mix, rate_per_s, replicas, z, budget=budget, step_s=performance.step_base_s
    )
    power = performance.power
    return OperatingPoint(
        utilisation=busy,
        batch=0.0,
        tpot_s=0.0,
        ttft_s=waited_s,
        kv_tokens=busy * mix.prompt_tokens,
        power_w=power.idle_w + busy * (power.prefill_w - power.idle_w),
    )


def _chunks(performance: ReplicaPerformance, tokens: float) -> float:
    return max(1.0, tokens / performance.batch_tokens_max)


def _ttft_s(
    performance: ReplicaPerformance,
    mix: Mix,
    rate_per_s: float,
    replicas: int,
    z: float,
    *,
    budget: float,
    step_s: float,
) -> float:
    """Wait for and computation of a prompt at a quantile: two moments, taken for those of a log-normal."""
    token_s = performance.prefill_token_s + step_s / budget
    # What has to be computed first is limited by the budget; the last chunk of each takes a whole step.
    mean_s = token_s * mix.uncached_tokens
    variance = token_s * token_s * max(0.0, mix.uncached_tokens_squared - mix.uncached_tokens**2)
    busy = rate_per_s * mean_s
    if busy >= 1.0:
        return math.inf
    spread = 1.0 + (variance / (mean_s * mean_s) if mean_s > 0 else 0.0)
    # Sakasegawa: P(wait) about ρ^(√(2(n+1)) − 1); waits that happen are about exponential.
    delayed = busy ** (math.sqrt(2.0 * (replicas + 1)) - 1.0) if busy > 0 else 0.0
    wait_s = spread / 2.0 * mean_s / (replicas * (1.0 - busy))
    mean_total = mean_s + delayed * wait_s + step_s
    variance += delayed * (2.0 - delayed) * wait_s * wait_s
    sigma2 = math.log1p(variance / (mean_total * mean_total))
    return mean_total * math.exp(z * math.sqrt(sigma2) - sigma2 / 2.0)


def _power_w(performance: ReplicaPerformance, batch: float, prompts_s: float) -> float:
    empty = math.exp(-batch)
    occupied_w = decode_w(performance.power, batch / (1.0 - empty)) if batch > 0 else 0.0
    decoding_w = empty * performance.power.idle_w + (1.0 - empty) * occupied_w
    return decoding_w + min(1.0, prompts_s) * (performance.power.prefill_w - decoding_w)


def within(
    performance: ReplicaPerformance,
    mix: Mix,
    point: OperatingPoint,
    objective: Objective,
    *,
    rate_per_s: float,
    work: Work,
    replicas: int,
) -> bool:
    """Whether a replica holds everything it has to at an operating point."""
    if point.utilisation >= 1.0 or point.batch > performance.sequences_max:
        return False
    if work is not Work.ANSWERS and point.ttft_s > objective.ttft_s:
        return False
    if work is Work.PROMPTS:
        return True
    if point.tpot_s > objective.tpot_s:
        return False
    if _kv_tokens_high(point, objective, replicas) > _KV_SHARE * performance.kv_tokens_max:
        return False
    step_s = point.batch / (rate_per_s * mix.output_tokens) if rate_per_s > 0 else 0.0
    prompts = rate_per_s * mix.uncached_tokens * step_s if work is Work.WHOLE else 0.0
    return prompts + point.batch <= performance.batch_tokens_max


def _kv_tokens_high(point: OperatingPoint, objective: Objective, replicas: int) -> float:
    """What a KV cache holds at the wanted quantile: a Poisson number of requests of scattered contexts.

    On average is not enough: requests wait or are preempted whenever those under way happen to be long. But
    routers count KV caches, so that the replicas of a pool scatter together and not each for itself.
    """
    if point.batch <= 0.0:
        return point.kv_tokens
    z = NormalDist().inv_cdf(objective.attainment)
    return point.kv_tokens * (1.0 + z * math.sqrt((1.0 + _CONTEXT_SPREAD2) / (point.batch * replicas)))


@lru_cache(maxsize=8192)
def rate_max(
    performance: ReplicaPerformance,
    mix: Mix,
    objective: Objective,
    *,
    replicas: int = 1,
    work: Work = Work.WHOLE,
) -> float:
    """Requests per second that one replica carries within the objective; 0 if not even a single request is.

    Args:
        performance: the replica.
        mix: what its requests are like.
        objective: what is promised.
        replicas: n, how many alike share the queue.
        work: which part of the requests it does.
    """

    def holds(rate_per_s: float) -> bool:
        point = operating_point(
            performance,
            mix,
            rate_per_s,
            replicas=replicas,
            work=work,
            attainment=objective.attainment,
        )
        return within(performance, mix, point, objective, rate_per_s=rate_per_s, work=work, replicas=replicas)

    each_s = request_s(performance, mix, work)
    # Where neither prompts nor sequences cost time beyond the step, the batch alone is the limit.
    by_batch = performance.sequences_max / max(1.0, mix.output_tokens) / max(performance.step_base_s, 1e-6)
    high = min(1.0 / each_s if each_s > 0 else math.inf, by_batch)
    low = 0.0
    if not holds(high * 1e-6):
        return 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
