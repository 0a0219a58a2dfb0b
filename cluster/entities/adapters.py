"""LoRA adapters: what a catalogue says of them, where a node holds them, how their answers were judged."""

from dataclasses import dataclass, field
from enum import StrEnum


class AdapterTier(StrEnum):
    """Where a node has an adapter, the farthest first."""

    REMOTE = "remote"
    """Only where its source says."""
    DISK = "disk"
    """In the node's folder, checked when it was fetched."""
    STAGED = "staged"
    """Read and checked just now, so that loading it runs at the speed of memory."""
    HOST = "host"
    """In the engine's memory, not in a slot."""
    DEVICE = "device"
    """In a slot of the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard:
    """What a catalogue says of an adapter."""

    name: str
    """Clients ask for `BASE:NAME`."""
    base_model: str
    """The served model that it adapts."""
    source: str
    """Where its files are."""
    sha256: str = ""
    """Of its files (`deployments.adapter_pager.files.adapter_sha256`); empty until somebody has fetched them.
    It is what statistics and folders are kept by: other weights are another adapter."""
    replaces: str = ""
    """`sha256` of the weights that these follow under the same name."""
    rank: int = 0
    """0 until known."""
    bytes: int = 0
    """Of its weights; 0 until known."""
    pinned: bool = False
    """Kept in a slot on every node that holds it."""
    prior_utility: float = 0.5
    """Expected utility of its answers before any was judged."""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCatalogue:
    """Every adapter there is. Sent whole."""

    version: int
    """Grows with every change; nodes ignore what is older than they have."""
    adapters: tuple[AdapterCard, ...] = ()
    """Ordered by base model and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPlacement:
    """The adapters that one node should have near: a hint from whoever sees all nodes."""

    version: int
    adapters: tuple[str, ...] = ()
    """By `sha256`, most valuable first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterResidency:
    """Where one node has one adapter."""

    name: str
    sha256: str
    """Empty while the node does not know it."""
    tier: AdapterTier
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOutcome:
    """How good one answer of an adapter was."""

    id: str
    """`DECISION:SOURCE`, as one answer may be judged by several; the same id counts once."""
    adapter: str
    """`sha256` of the adapter that answered."""
    x: tuple[float, ...]
    """The vector that stood for the request."""
    utility: float
    """0 to 1."""
    weight: float = 1.0
