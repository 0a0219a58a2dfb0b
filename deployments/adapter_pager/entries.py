"""What the pager knows of each adapter, and of who runs on it and who waits for it."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cluster.entities.adapters import AdapterCard, AdapterTier
from deployments.adapter_pager.backend import EngineAdapter
from deployments.adapter_pager.files import AdapterFacts

_JUST_CAME_S = 0.05
"""Several who came at this moment count for more than one."""


class AdapterRefusedError(Exception):
    """A request cannot have its adapter; carries what the answer says."""

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRequest:
    """What the pager must know of a request for an adapter."""

    adapter: str
    """By name."""
    x: tuple[float, ...] = ()
    """The vector that stands for it; empty if it came without one."""
    open: bool = False
    """The adapter was chosen for it; another would do, too."""
    explored: bool = False
    """The adapter was chosen so that something is learnt."""
    tokens_max: int = 256
    """Of output."""


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """A request that the engine has."""

    entry: "Entry"
    tokens_max: int
    tokens: int = 0
    """So far, as far as one can tell."""

    @property
    def tokens_left(self) -> int:
        """At most."""
        return max(0, self.tokens_max - self.tokens)


@dataclass(slots=True, kw_only=True, eq=False)
class Waiter:
    """A request that is parked."""

    request: AdapterRequest
    since_s: float
    admitted: "asyncio.Future[Running | None]"
    """Done when it may run; None: on the base model."""


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One version of one adapter: other weights under the same name are another entry."""

    card: AdapterCard
    number: int = 0
    facts: AdapterFacts | None = None
    """Known once its files were seen."""
    path: Path | None = None
    tier: AdapterTier = AdapterTier.REMOTE
    in_host: bool = False
    """The engine's process has a copy beside the slot."""
    listed: bool = True
    """False once the catalogue has it no more: it leaves when nobody runs on it."""
    draining: bool = False
    """Nobody is let in any more, so that its slot falls free."""
    prefetched: bool = False
    """Loaded ahead of need, and nobody has asked for it since."""
    staging: "asyncio.Task[None] | None" = None
    staging_tier: AdapterTier = AdapterTier.REMOTE
    """Where it lay when that began."""
    staging_since_s: float = 0.0
    staged_at_s: float = float("-inf")
    """When its files were last read and checked."""
    used_at_s: float = 0.0
    failures: int = 0
    """In a row."""
    failure: str = ""
    retry_at_s: float = 0.0
    """Until then it is not tried again."""
    running: set[Running] = field(default_factory=set)
    waiters: deque[Waiter] = field(default_factory=deque)

    @property
    def key(self) -> str:
        """What statistics know it by; empty until its files were seen."""
        return self.facts.sha256 if self.facts else ""

    @property
    def size(self) -> int:
        """Bytes of its weights, as far as known."""
        return self.facts.bytes if self.facts else 0

    @property
    def in_slot(self) -> bool:
        """Whether requests for it can run now."""
        return self.tier is AdapterTier.DEVICE

    @property
    def tokens_left(self) -> int:
        """How long its running requests will take at most."""
        return max((running.tokens_left for running in self.running), default=0)

    def run(self, request: AdapterRequest) -> Running:
        """Count a request in; whoever gets this counts it out."""
        running = Running(entry=self, tokens_max=request.tokens_max)
        self.running.add(running)
        return running

    def for_engine(self) -> EngineAdapter:
        """As the engine is told of it."""
        assert self.facts is not None  # noqa: S101 - nothing is loaded that was not staged
        return EngineAdapter(
            name=f"{self.card.base_model}:{self.card.name}",
            number=self.number,
            path=str(self.path),
            bytes=self.facts.bytes,
        )


@dataclass(slots=True, kw_only=True)
class Visit:
    """A request that may run in the engine; `AdapterPager.leave` ends it."""

    running: Running | None
    """None: it runs on the base model."""
    tier: AdapterTier
    """Where its adapter lay when it came."""
    waited_s: float

    @property
    def adapter(self) -> str:
        """Name of the adapter that answers; empty for the base model."""
        return self.running.entry.card.name if self.running else ""

    @property
    def model(self) -> str:
        """What the engine is to be asked for; empty for the base model."""
        return self.running.entry.for_engine().name if self.running else ""


class Shelf:
    """All entries: those of the catalogue by name, and those that are leaving."""

    def __init__(self) -> None:
        self.by_name: dict[str, Entry] = {}
        self.leaving: list[Entry] = []

    def __iter__(self) -> Iterator[Entry]:
        yield from self.by_name.values()
        yield from self.leaving

    def of_key(self, key: str) -> Entry:
        """The entry with these weights.

        Raises:
            KeyError: there is none.
        """
        for entry in self:
            if entry.key == key:
                return entry
        raise KeyError(key)

    def in_slots(self) -> list[Entry]:
        """Those that can run."""
        return [entry for entry in self if entry.in_slot]

    def waiting(self, now_s: float) -> list[Entry]:
        """Those that somebody waits for, the longest wait of all waiters together first.

        So one load ends most waiting, and who waits alone comes to his turn as well.
        """
        return sorted(
            (entry for entry in self if entry.waiters),
            key=lambda entry: sum(_JUST_CAME_S + now_s - waiter.since_s for waiter in entry.waiters),
            reverse=True,
        )

    @property
    def running(self) -> int:
        """Requests in the engine."""
        return sum(len(entry.running) for entry in self)

    @property
    def parked(self) -> int:
        """Requests that wait."""
        return sum(len(entry.waiters) for entry in self)
