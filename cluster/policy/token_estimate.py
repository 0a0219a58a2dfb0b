"""Prompt length in tokens, estimated from its length in bytes.

Tokenizing every prompt in the router would cost more than routing does. The engines report the true count
with each answer, so one ratio for each model, learnt from those, is accurate enough to compare replicas.
"""

import math
from dataclasses import dataclass

_WEIGHT = 0.05
"""Share of the newest observation once there are many."""
_RATIO_MIN = 0.05
_RATIO_MAX = 2.0
"""Beyond these an observation says more about chat templates or padding than about text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRatio:
    """What has been learnt about one model's tokenizer."""

    tokens_per_byte: float = 0.25
    """Starts at four bytes a token, the usual figure for English."""
    observations: int = 0
    """How many answers it was learnt from."""


def estimate_tokens(ratio: TokenRatio, prompt_bytes: int) -> int:
    """Estimated tokens of a prompt, rounded up: at least 1 unless it is empty."""
    return math.ceil(ratio.tokens_per_byte * prompt_bytes) if prompt_bytes > 0 else 0


def learn(ratio: TokenRatio, *, prompt_bytes: int, prompt_tokens: int) -> TokenRatio:
    """Take in the true token count of one prompt: an exponentially weighted mean.

    The first observations weigh more, so that the starting guess is soon forgotten. Counts that are not
    positive teach nothing and leave the ratio as it is.
    """
    if prompt_bytes <= 0 or prompt_tokens <= 0:
        return ratio
    observed = min(max(prompt_tokens / prompt_bytes, _RATIO_MIN), _RATIO_MAX)
    # The starting guess counts as one observation.
    weight = max(_WEIGHT, 1.0 / (ratio.observations + 2))
    mean = ratio.tokens_per_byte + weight * (observed - ratio.tokens_per_byte)
    return TokenRatio(
        tokens_per_byte=min(max(mean, _RATIO_MIN), _RATIO_MAX), observations=ratio.observations + 1
    )
