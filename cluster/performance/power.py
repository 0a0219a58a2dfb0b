"""Power of a replica by what it does."""

import math

from cluster.entities.performance import PowerCurve, ReplicaPerformance


def decode_w(curve: PowerCurve, sequences: float) -> float:
    """Power while decoding, in watts.

    Source: P(b) = P_range / (1 + exp(-k·(log2 b - x0))) + P_idle, arXiv 2603.17280, section 3.1.

    Args:
        curve: the replica's curve.
        sequences: b, the decoding batch; a mean over time may be fractional. 0 or less is idle.
    """
    if sequences <= 0:
        return curve.idle_w
    exponent = -curve.steepness * (math.log2(sequences) - curve.midpoint_log2)
    if exponent > 700:  # exp would overflow: far below the midpoint
        return curve.idle_w
    return curve.idle_w + curve.range_w / (1.0 + math.exp(exponent))


def step_w(performance: ReplicaPerformance, *, sequences: float, prefill_share: float) -> float:
    """Mean power over steps that spend part of their time on prompts, in watts.

    Args:
        performance: the replica.
        sequences: decoding batch.
        prefill_share: part of the step's time that goes to prompt tokens, 0..1.
    """
    decoding_w = decode_w(performance.power, sequences)
    return decoding_w + prefill_share * (performance.power.prefill_w - decoding_w)
