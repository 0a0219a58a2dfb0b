"""Energy of an answer by the size of the model, from published measurements.

Joules per output token at a batch of 64 on H100-SXM5-80GB, task "chat", by total billions of parameters:
ML.ENERGY leaderboard v2 (ml-energy/leaderboard-v2, Apache-2.0; arXiv 2505.06371). Sizes between the dense
models are interpolated in logarithms; mixtures of experts have rows of their own, because their energy
follows neither their total nor their active size. GreenServ (arXiv 2601.17551) measures at batch 1, 0.009 to
19 J per token on its tasks: serving shares a batch, so those figures are not used.

A prompt token counts as a seventh of an output token: 2 FLOP per parameter and token at 40 % of an H100's
dense 989 TFLOP/s and 600 W are 0.024 J for 8 billion parameters, against 0.171 J measured per output token.
"""

import re

import numpy as np

from load_tests.model_tables.table import Numbers, TableError

SOURCE = "J/token by model size: ML.ENERGY leaderboard v2, H100, batch 64; prompt tokens count 1/7"
FROM_PRICE = "assumed: a tenth of the price is electricity at 0.10 $/kWh; sizes are not published"

_DENSE_J_PER_TOKEN = {
    3.8: 0.1519,  # Phi-3-mini-4k-instruct
    7.2: 0.1565,  # Mistral-7B-Instruct-v0.3
    8.0: 0.1711,  # Meta-Llama-3.1-8B-Instruct
    9.2: 0.2330,  # gemma-2-9b-it
    14.0: 0.2490,  # Phi-3-medium-4k-instruct
    27.2: 0.5878,  # gemma-2-27b-it
    70.6: 1.3127,  # Meta-Llama-3.1-70B-Instruct
    123.0: 2.9703,  # Mistral-Large-Instruct-2407
}
_MIXTURE_J_PER_TOKEN = {"8x7b": 1.0059, "8x22b": 3.3328}
_PROMPT_SHARE = 1 / 7
_J_PER_USD = 0.1 / 0.10 * 3.6e6


def size_in_name(model: str) -> str:
    """The size that a model's name states: `7b`, `8x7b`, `3.8b`.

    Raises:
        TableError: it states none.
    """
    if "phi-3-mini" in model.lower():
        return "3.8b"
    found = re.search(r"(?<![\d.])(\d+x)?\d+(\.\d+)?b(?![a-z])", model.lower())
    if found is None:
        raise TableError(f"model {model!r}: its name states no size, so its energy is unknown")
    return found.group(0)


def j_per_output_token(size: str) -> float:
    """Energy of one output token of a model of this size."""
    if size in _MIXTURE_J_PER_TOKEN:
        return _MIXTURE_J_PER_TOKEN[size]
    billions = float(size.removesuffix("b"))
    known = np.log(list(_DENSE_J_PER_TOKEN))
    return float(np.exp(np.interp(np.log(billions), known, np.log(list(_DENSE_J_PER_TOKEN.values())))))


def answer_j(size: str, prompt_tokens: Numbers, output_tokens: Numbers) -> Numbers:
    """Energy of answers."""
    return j_per_output_token(size) * (output_tokens + _PROMPT_SHARE * prompt_tokens)


def energy_from_price(cost_usd: Numbers) -> Numbers:
    """Energy of answers of models of unknown size. An assumption, not a measurement."""
    return cost_usd * _J_PER_USD
