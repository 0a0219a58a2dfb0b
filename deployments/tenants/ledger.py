"""The ledger of all tenants: what routers draw from, and what was used."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cluster.config.tenants import TenantConfig
from cluster.entities.tenancy import Quota, Usage, Window
from cluster.policy.tenancy.account import Account, Order, Reply
from cluster.policy.tenancy.windows import slot_of

USAGE_WINDOWS = (Window.DAY, Window.MONTH)
USAGE_KEPT_S = {Window.DAY: 100 * 86_400.0, Window.MONTH: 1100 * 86_400.0}
"""How long what was used can be looked up: about three months by day, three years by month."""


class LedgerAwayError(Exception):
    """The ledger cannot be used now; the message holds no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A tenant's limits as the ledger needs them."""

    quotas: tuple[Quota, ...]
    places_max: int | None

    @classmethod
    def of(cls, tenant: TenantConfig) -> "Terms":
        """From the configuration."""
        return cls(quotas=tenant.quotas, places_max=tenant.concurrent_requests_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """What a tenant used in a day or month."""

    tenant: str
    window: Window
    slot: int
    usage: Usage


class Ledger(Protocol):
    """Blocks: routers use it in a thread of its own. Every call may raise LedgerAwayError."""

    def open(self) -> None:
        """Connect."""

    def close(self) -> None:
        """Disconnect."""

    def exchange(self, orders: Sequence[tuple[Order, Terms]]) -> list[Reply]:
        """Carry out orders, each as one step that nobody comes between."""

    def add_usage(self, router: str, number: int, used: Mapping[str, Usage]) -> None:
        """Count what was used, by tenant. Reports of a router have rising numbers; each counts once."""

    def usage(self) -> list[UsageRow]:
        """What was used, by tenant, day and month."""


def to_json(account: Account) -> str:
    """An account as it is stored."""
    used = {name: list(slots.items()) for name, slots in account.used.items()}
    return json.dumps({"used": used, "places": account.places})


def from_json(text: str | None) -> Account:
    """An account as it was stored."""
    if text is None:
        return Account()
    found: dict[str, Any] = json.loads(text)
    used = {
        name: {int(slot): float(amount) for slot, amount in slots} for name, slots in found["used"].items()
    }
    places = {router: (int(count), float(until)) for router, (count, until) in found["places"].items()}
    return Account(used=used, places=places)


def usage_slots(now_s: float) -> list[tuple[Window, int]]:
    """Where what is used now counts."""
    return [(window, slot_of(window, now_s)) for window in USAGE_WINDOWS]


def nonzero(usage: Usage) -> dict[str, float]:
    """The parts that say something."""
    return {name: value for name, value in asdict(usage).items() if value}


def usage_from(parts: Mapping[str, float]) -> Usage:
    """From stored parts."""
    counts = ("requests", "refused", "cached", "prompt_tokens", "output_tokens")
    return Usage(**{name: int(value) if name in counts else value for name, value in parts.items()})  # type: ignore[arg-type]
