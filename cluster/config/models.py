"""Which models are served, where their weights come from, and what their users are promised."""

from pydantic import Field

from cluster.config.base import Section


class SloConfig(Section):
    """Service level objectives of one model. A request meets them when it meets every one."""

    ttft_s: float = Field(default=2.0, gt=0)
    """Time to first token, from arrival at the router."""

    tpot_s: float = Field(default=0.2, gt=0)
    """Time per output token after the first."""

    attainment: float = Field(default=0.95, gt=0, lt=1)
    """Share of requests that are to meet both."""


class ModelConfig(Section):
    """One served model."""

    source: str = Field(min_length=1)
    """`package:NAME` (weights inside an installed Python package, converted once), a local folder, or a
    Hugging Face id such as `Qwen/Qwen3-0.6B`."""

    aliases: tuple[str, ...] = ()
    """Other names under which clients may ask for it."""

    tool_call_parser: str | None = None
    """vLLM's parser for tool calls (`hermes`, `llama3_json`, …); None turns automatic tool choice off."""

    reasoning_parser: str | None = None
    """vLLM's parser for reasoning text; None for models without it."""

    architecture: str | None = None
    """The model in the performance catalogue (`llama-3.1-8b`, `llama-3.1-70b`, …) from which speed, memory
    and power are predicted until they are measured; None for models it does not know."""

    price_usd_per_million_input_tokens: float = Field(default=0.0, ge=0)
    """What model routing counts a million prompt tokens at; 0 if nothing is charged."""

    price_usd_per_million_output_tokens: float = Field(default=0.0, ge=0)
    """The same for output tokens."""

    slo: SloConfig = SloConfig()
    """What its users are promised; the provisioner plans for it."""

    def cost_usd(self, prompt_tokens: float, output_tokens: float) -> float:
        """What so many tokens are counted at."""
        return (
            prompt_tokens * self.price_usd_per_million_input_tokens
            + output_tokens * self.price_usd_per_million_output_tokens
        ) / 1e6
