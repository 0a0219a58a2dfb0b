"""A tenant's account: what all routers together have drawn of its quotas and places.

Routers do not ask for every request. They draw a little ahead (a lease), spend it by themselves and give back
what is left when its time is up. What is drawn counts as used at once, so all together never use more than
the limit, whatever happens to a router; what a router takes with it when it dies counts as used.

A minute's lease ends with the slot it was drawn in, because what is spent later would have to count later.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.entities.tenancy import Quota, Unit, Window
from cluster.policy.tenancy.windows import forgotten_s, slot_end_s, slot_of

PLACES_EXPIRY_S = 10.0
"""A router that is silent for so long has lost its places: its streams are broken anyway."""

LEASE_S = 10.0
"""How long what was drawn of a budget stays with a router unspent."""

_WHOLE = frozenset({Unit.REQUESTS, Unit.TOKENS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is drawn. Empty at first."""

    used: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """By quota and slot."""
    places: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """By router: how many it holds, and until when (Unix time)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one router wants to draw and what it gives back."""

    tenant: str
    router: str
    needs: Mapping[str, float] = field(default_factory=dict)
    """By quota: what requests wait for."""
    ahead: Mapping[str, float] = field(default_factory=dict)
    """By quota: what would come in handy."""
    returns: tuple[tuple[str, int, float], ...] = ()
    """Quota, slot, amount: given back, or taken beyond what was drawn if negative."""
    places: int = 0
    """Places that the router wants to hold from now on."""
    share: float = 1.0
    """Part of what is left that may be drawn ahead: less where there are more routers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a router got."""

    at_s: float
    """The ledger's time."""
    granted: Mapping[str, float] = field(default_factory=dict)
    slots: Mapping[str, int] = field(default_factory=dict)
    """The slot that everything granted belongs to."""
    lasts_s: Mapping[str, float] = field(default_factory=dict)
    """For how long it may be spent."""
    remaining: Mapping[str, float] = field(default_factory=dict)
    """What is left for everybody, by quota; negative if more than the limit is used."""
    retry_after_s: Mapping[str, float] = field(default_factory=dict)
    """When more is to be had, for quotas of which not all that is needed was granted."""
    places: int = 0
    """Places that the router holds now."""


def exchange(
    account: Account, order: Order, quotas: tuple[Quota, ...], places_max: int | None, now_s: float
) -> tuple[Account, Reply]:
    """Carry out one order.

    Args:
        account: the tenant's.
        order: of one router.
        quotas: the tenant's limits.
        places_max: requests at a time on all routers; None does not limit them.
        now_s: the ledger's time, Unix.
    """
    used = {quota.name: _counting(account.used.get(quota.name, {}), quota.window, now_s) for quota in quotas}
    for name, slot, amount in order.returns:
        if name in used and (slot in used[name] or amount < 0):
            used[name][slot] = max(0.0, used[name].get(slot, 0.0) - amount)
    reply_parts: dict[str, dict[str, float]] = {"granted": {}, "lasts": {}, "remaining": {}, "retry": {}}
    slots: dict[str, int] = {}
    for quota in quotas:
        name, slot = quota.name, slot_of(quota.window, now_s)
        spent = used[name]
        remaining = quota.limit - sum(spent.values())
        need = order.needs.get(name, 0.0)
        granted = _grant(quota, need, order.ahead.get(name, 0.0), remaining, order.share)
        if granted > 0.0:
            spent[slot] = spent.get(slot, 0.0) + granted
        slots[name] = slot
        reply_parts["granted"][name] = granted
        reply_parts["remaining"][name] = remaining - granted
        reply_parts["lasts"][name] = min(LEASE_S, slot_end_s(quota.window, slot) - now_s)
        if granted < need or remaining <= 0.0:
            reply_parts["retry"][name] = _retry_after_s(quota, spent, max(0.0, need - granted), now_s)
    places, held = _places(account.places, order, places_max, now_s)
    kept = {name: {slot: amount for slot, amount in s.items() if amount > 0.0} for name, s in used.items()}
    reply = Reply(
        at_s=now_s,
        granted=reply_parts["granted"],
        slots=slots,
        lasts_s=reply_parts["lasts"],
        remaining=reply_parts["remaining"],
        retry_after_s=reply_parts["retry"],
        places=held,
    )
    return Account(used={name: s for name, s in kept.items() if s}, places=places), reply


def _counting(slots: Mapping[int, float], window: Window, now_s: float) -> dict[int, float]:
    """The slots that still count."""
    return {slot: amount for slot, amount in slots.items() if now_s < forgotten_s(window, slot)}


def _grant(quota: Quota, need: float, ahead: float, remaining: float, share: float) -> float:
    if quota.is_postpaid or remaining <= 0.0 or need <= 0.0:
        return 0.0
    if need >= remaining:
        return remaining
    extra = min(ahead, (remaining - need) * share)
    return need + (float(int(extra)) if quota.unit in _WHOLE else extra)


def _retry_after_s(quota: Quota, slots: Mapping[int, float], missing: float, now_s: float) -> float:
    """When enough of what is used no longer counts."""
    freed = quota.limit - sum(slots.values())
    for slot in sorted(slots):
        freed += slots[slot]
        if freed > 0.0 and freed >= missing:
            return max(0.0, forgotten_s(quota.window, slot) - now_s)
    return forgotten_s(quota.window, slot_of(quota.window, now_s)) - now_s


def _places(
    places: Mapping[str, tuple[int, float]], order: Order, places_max: int | None, now_s: float
) -> tuple[dict[str, tuple[int, float]], int]:
    if places_max is None:
        return {}, order.places
    others = {router: held for router, held in places.items() if router != order.router and now_s < held[1]}
    free = places_max - sum(count for count, _ in others.values())
    # What it holds is taken already: a lower limit lets it run out, and never takes a place away.
    before = places.get(order.router, (0, 0.0))
    keeps = min(order.places, before[0]) if now_s < before[1] else 0
    held = max(keeps, min(order.places, free))
    if held > 0:
        others[order.router] = (held, now_s + PLACES_EXPIRY_S)
    return others, max(0, held)
