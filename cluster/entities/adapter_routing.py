"""Which adapter answers a request: what the choice was made from and what came of it."""

from dataclasses import dataclass, field

from cluster.entities.adapters import AdapterTier


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCandidate:
    """An adapter that could answer."""

    name: str
    utility: float
    """Expected of its answer, 0 to 1."""
    bonus: float
    """Added for what is not known of it."""
    price: float
    """In utility, of the page-in on the node where it is lowest; 0 if one has it in a slot."""
    tier: AdapterTier
    """The nearest on any usable node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterDecision:
    """The adapter of one request with everything its choice was made from, except for the learnt state."""

    asked: str
    """The name under which the caller asked."""
    named: bool
    """The caller named the adapter; nothing was chosen."""
    adapter: str
    """By name."""
    sha256: str = ""
    """Of its weights, as far as the router knew them."""
    policy: str = ""
    """Rule of the choice; empty if the adapter was named."""
    score: float = 0.0
    """Utility and bonus, less what was taken off for the page-in."""
    bonus: float = 0.0
    price: float = 0.0
    tier: AdapterTier = AdapterTier.REMOTE
    """The nearest on any usable node."""
    explored: bool = False
    """Chosen by chance or to learn something, not for its score."""
    propensity: float = 1.0
    """With which it was picked."""
    draw: float = 0.0
    """The chance that was used, in [0, 1)."""
    x: tuple[float, ...] = ()
    """The vector that stood for the request."""
    text_read: bool = False
    """Whether the vector holds anything of the request's words."""
    states: dict[str, str] = field(default_factory=dict)
    """By replica, the version of what was learnt there that the choice was made from."""
    catalogue_version: int = 0
    candidates: tuple[AdapterCandidate, ...] = ()
    """Highest score first; the last ones are left out where there are very many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterAnswer:
    """What the replica said of the adapter that answered."""

    adapter: str
    """Empty for the base model."""
    sha256: str = ""
    """Of its weights, as far as the router knew them."""
    tier: str = ""
    """Where it lay when the request came."""
    waited_s: float = 0.0
    """How long the request was parked until it was in a slot."""
