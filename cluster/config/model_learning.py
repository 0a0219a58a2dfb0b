"""How callers leave the model open, what the choice is made from, and how it learns from what came of it."""

from pydantic import Field, model_validator

from cluster.config.base import Section
from cluster.entities.model_routing import Goal


class AutoConfig(Section):
    """Names with which callers leave the model open. A model's own name or alias is always obeyed."""

    enabled: bool | None = None
    """Whether models are routed; None for yes if there are several models and none of them has one of the
    names below as an alias."""

    balanced: str = Field(default="auto", min_length=1)
    """Quality, cost, latency and energy by `routing.models.goals.balanced`."""

    cheap: str = Field(default="auto:cheap", min_length=1)
    """By `routing.models.goals.cheap`."""

    quality: str = Field(default="auto:quality", min_length=1)
    """By `routing.models.goals.quality`."""

    @property
    def goals(self) -> dict[str, Goal]:
        """The goal that each name stands for."""
        return {self.balanced: Goal.BALANCED, self.cheap: Goal.CHEAP, self.quality: Goal.QUALITY}

    @model_validator(mode="after")
    def _distinct(self) -> "AutoConfig":
        if len(self.goals) < len(Goal):
            raise ValueError("balanced, cheap and quality must be three different names")
        return self


class AutomaticSignalsConfig(Section):
    """What answers show of their own quality. A weight is what the signal takes from a quality of 1; 0 turns
    the signal off.
    """

    cut_weight: float = Field(default=0.0, ge=0, le=1)
    """The answer ended at the token limit. Off, because many clients bound answers on purpose."""

    refused_weight: float = Field(default=0.8, ge=0, le=1)
    """The engine ended it because of its content."""

    left_weight: float = Field(default=0.3, ge=0, le=1)
    """The client left in the middle of the answer."""

    format_weight: float = Field(default=1.0, ge=0, le=1)
    """JSON was asked for and the answer is none. One that is, counts as a quality of 1."""

    retry_weight: float = Field(default=0.5, ge=0, le=1)
    """The same tenant asked the same again within `retry_window_s`."""

    retry_window_s: float = Field(default=60.0, gt=0)
    """How long the same words count as a retry."""

    retry_memory_max: int = Field(default=10_000, ge=1)
    """Requests that one router remembers for it."""


class ModelLearningConfig(Section):
    """The learner: one process that owns what model routing has learnt (docs/architecture.md)."""

    warm_start: str | None = None
    """File with a state of the policy that was learnt elsewhere; taken where nothing has been learnt yet."""

    text_signals_timeout_s: float = Field(default=0.5, gt=0, le=60)
    """Embedding, category and language of a prompt are waited for no longer than this; then the model is
    chosen without them."""

    assumed_output_tokens: int = Field(default=128, ge=1)
    """Length of a model's answers until some have been counted."""

    pending_max: int = Field(default=2_000, ge=1)
    """Decisions that feedback may still come for; the oldest go first."""

    feedback_window_s: float = Field(default=3600.0, gt=0)
    """How long feedback on a decision is taken."""

    publish_period_s: float = Field(default=0.25, gt=0)
    """Routers hear of what was learnt no more often than this."""

    journal_events_max: int = Field(default=1_000, ge=10)
    """Outcomes and judgements in one journal; then the whole state is written and a new one begun."""

    journals_max: int = Field(default=16, ge=2)
    """Journals kept: what `tidemill evaluate` can know of old answers."""

    outbox_max: int = Field(default=5_000, ge=1)
    """Outcomes that a router keeps while the learner is away; further ones are dropped and counted."""

    feedback_timeout_s: float = Field(default=3.0, gt=0)
    """`POST /v1/feedback` waits for the learner no longer than this, then answers 503."""

    automatic: AutomaticSignalsConfig = AutomaticSignalsConfig()
