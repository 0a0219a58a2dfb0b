"""Tenants: who calls, what they may use, and what they have used."""

from dataclasses import dataclass
from enum import StrEnum


class Priority(StrEnum):
    """Class of a tenant in the queue, most urgent first."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"

    @property
    def rank(self) -> int:
        """0 is served first."""
        return _RANKS[self]


_RANKS = {Priority.INTERACTIVE: 0, Priority.STANDARD: 1, Priority.BATCH: 2}


class Window(StrEnum):
    """Over what time a quota counts."""

    MINUTE = "minute"
    """Any sixty seconds."""
    DAY = "day"
    """A calendar day, UTC."""
    MONTH = "month"
    """A calendar month, UTC."""


class Unit(StrEnum):
    """What a quota counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    """Prompt and output together."""
    USD = "usd"
    ENERGY = "energy_j"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """One thing of which a tenant may use so much in a window."""

    window: Window
    unit: Unit
    limit: float

    @property
    def name(self) -> str:
        """Its key in the ledger."""
        return f"{self.window.value}:{self.unit.value}"

    @property
    def is_budget(self) -> bool:
        """Whether it is a budget of a day or month and not a rate."""
        return self.window is not Window.MINUTE

    @property
    def is_postpaid(self) -> bool:
        """Whether its use is known only afterwards: energy is metered in windows of seconds."""
        return self.unit is Unit.ENERGY


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is kept of an API key; never the key itself."""

    key_id: str
    """Public part, which finds the record."""
    tenant: str
    sha256: str
    """Of the whole key, in hexadecimal."""
    name: str = ""
    """What its owner calls it."""
    created_at_s: float
    expires_at_s: float | None = None
    revoked_at_s: float | None = None

    def is_valid(self, now_s: float) -> bool:
        """Whether it opens anything at this instant (Unix time)."""
        return all(end is None or now_s < end for end in (self.expires_at_s, self.revoked_at_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a tenant has used."""

    requests: int = 0
    refused: int = 0
    """Requests that a limit or budget turned away."""
    cached: int = 0
    """Requests answered from the semantic cache, which cost nothing."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    measured_j: float = 0.0
    modelled_j: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            requests=self.requests + other.requests,
            refused=self.refused + other.refused,
            cached=self.cached + other.cached,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            usd=self.usd + other.usd,
            measured_j=self.measured_j + other.measured_j,
            modelled_j=self.modelled_j + other.modelled_j,
        )
