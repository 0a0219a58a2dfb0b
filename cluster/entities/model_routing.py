"""Model routing: what is known before a model is chosen, what was chosen, and what came of it.

Which model answers is decided here; which copy of it, by replica routing (`cluster.entities.routing`).
"""

from dataclasses import dataclass, field
from enum import StrEnum

from cluster.entities.reasons import Reason


class Goal(StrEnum):
    """What a caller who leaves the model open wants: `auto`, `auto:cheap`, `auto:quality`."""

    BALANCED = "balanced"
    CHEAP = "cheap"
    QUALITY = "quality"


class FeedbackSource(StrEnum):
    """Who judged an answer."""

    CALLER = "caller"
    """`POST /v1/feedback`."""
    JUDGE = "judge"
    """A verifier or judge model of ours."""
    AUTOMATIC = "automatic"
    """What the answer itself shows: finish reason, format, a retry of the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSignals:
    """What model routing may look at, cheap signals first. Never the prompt's text itself."""

    goal: Goal = Goal.BALANCED
    tenant: str
    category: str = "other"
    """One of `cluster.policy.routing.models.categories`."""
    category_confidence: float = 0.0
    """Probability that the classifier gives the category, 0..1."""
    language: str = "und"
    """ISO 639-1 code of the last user text; `und` if it cannot be told."""
    prompt_tokens: int = 0
    complexity: float = 0.0
    """Of the last user text, 0 (simple) to 1."""
    turns: int = 1
    """User messages in the conversation."""
    tools: bool = False
    """Whether the request offers tools."""
    hints: tuple[tuple[str, str], ...] = ()
    """The caller's `x-tidemill-hint-*` headers, name without the prefix, sorted."""
    embedding: tuple[float, ...] = ()
    """Sentence embedding of the last user text, unit length; empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCandidate:
    """A model that could answer, with what answering is predicted to take."""

    model: str
    cost_usd: float = 0.0
    """Predicted for this request."""
    energy_j: float = 0.0
    """Predicted for this request."""
    ttft_s: float = 0.0
    """Predicted by its least loaded replica."""
    usable: bool = True
    """Whether a replica of it could take the request now."""
    asked: int = 0
    """Where its price or energy is unknown: how often it was asked already, heard of or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """The model to ask, with what every candidate scored and how likely chance was to pick each."""

    model: str | None
    """None if no candidate can be asked."""
    policy: str
    version: int = 0
    """Of the learnt state that was used; 0 before anything was learnt."""
    scores: dict[str, float] = field(default_factory=dict)
    """By model, higher is better; penalties for money and energy included."""
    propensities: dict[str, float] = field(default_factory=dict)
    """By model, the probability with which the policy would have picked it here. They sum to one."""
    reasons: tuple[Reason, ...] = ()

    @property
    def propensity(self) -> float:
        """Probability with which the chosen model was picked."""
        return self.propensities.get(self.model, 0.0) if self.model is not None else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutcome:
    """What came of one choice. `quality` may come long after the rest, or never."""

    decision_id: str
    model: str
    signals: ModelSignals
    propensity: float
    """With which the model was picked."""
    offered: tuple[str, ...] = ()
    """Models that could have been picked; empty where that is not known."""
    quality: float | None = None
    """Judged, 0..1; None while nobody has."""
    source: FeedbackSource | None = None
    cost_usd: float = 0.0
    energy_j: float = 0.0
    predicted_cost_usd: float = 0.0
    """What the candidate was said to cost when it was chosen; 0 if nothing was said."""
    predicted_energy_j: float = 0.0
    """The same for energy."""
    ttft_s: float = 0.0
    latency_s: float = 0.0
    """From arrival to the last token."""
    counted: bool = False
    """Whether what it took was learnt before it was judged, so that only its quality is news."""
    at_s: float
    """Unix time of the answer's end."""
