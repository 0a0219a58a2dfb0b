"""NVIDIA Dynamo's two costs, in KV cache blocks.

Source: ai-dynamo/dynamo, lib/kv-router and its documentation. Credits are those of the device (1.0); there
are no other tiers here. Temperature is 0, as by default: the lowest cost wins.
"""

from cluster.entities.pool import ReplicaCandidate
from cluster.entities.routing import ReplicaChoice
from cluster.policy.routing.replicas.interface import Situation, lowest


def dynamo(situation: Situation) -> ReplicaChoice:
    """prefill_load_scale·max(active prefill + prompt − cached, 0) + (active decode + incoming) blocks."""
    scale = situation.config.baselines.dynamo_prefill_load_scale
    return lowest(
        situation,
        {
            r.replica_id: scale * _prefill_blocks(situation, r) + _decode_blocks(situation, r)
            for r in situation.usable
        },
    )


def dynamo_lmetric(situation: Situation) -> ReplicaChoice:
    """The product form `lmetric`: prefill blocks after credit times (sequences in flight + 1).

    Multiplying needs no weight between the two loads.
    """
    return lowest(
        situation,
        {r.replica_id: _prefill_blocks(situation, r) * (r.requests_in_flight + 1) for r in situation.usable},
    )


def _prefill_blocks(situation: Situation, replica: ReplicaCandidate) -> float:
    tokens = replica.pending_prefill_tokens + situation.signals.prompt_tokens - replica.cached_tokens
    return max(0.0, tokens / situation.config.baselines.dynamo_block_tokens)


def _decode_blocks(situation: Situation, replica: ReplicaCandidate) -> float:
    """Blocks of the sequences in flight there, this prompt included."""
    in_flight = replica.decode_tokens + replica.pending_prefill_tokens
    tokens = in_flight + situation.signals.prompt_tokens
    return tokens / situation.config.baselines.dynamo_block_tokens
