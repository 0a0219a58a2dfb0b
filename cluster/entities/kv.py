"""The hand-over of a KV cache from a prefill to a decode engine."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class KVTicket:
    """What the decode engine needs to pull the prompt's KV blocks from the prefill engine.

    The content is the connector's own (vLLM's ``kv_transfer_params``: engine id, block ids, host, port) and
    opaque to everybody else. It is valid until the producer's lease ends.
    """

    params: dict[str, Any]
