"""What one router has drawn of one tenant's quotas, and spends without asking anybody.

Arithmetic without waiting: the gate asks the ledger and hands over what it said. Clocks: `now_s` is the
router's own; slots are the ledger's.
"""

from dataclasses import dataclass

from cluster.config.tenants import TenantConfig
from cluster.entities.tenancy import Quota, Unit
from cluster.policy.tenancy.account import Order, Reply

_AHEAD = 3.0
"""Times what waits that is drawn ahead at first; then as much again as was spent lately."""
_EMPTY_S = 0.25
"""How long "nothing left" is believed without asking again."""
PLACES = "concurrent_requests"
"""Stands for the places where quotas are named."""


@dataclass(slots=True, kw_only=True)
class Lease:
    """One quota here."""

    quota: Quota
    name: str
    unit: Unit
    postpaid: bool
    left: float = 0.0
    """Drawn and unspent; negative where requests took more than they had reserved."""
    slot: int = 0
    until_s: float = float("-inf")
    """When it must be spent or given back."""
    spent: float = 0.0
    """Since it was first drawn in this slot: how much to draw ahead next."""
    remaining: float = 0.0
    """Of the whole quota when the ledger was last asked."""
    empty_until_s: float = float("-inf")
    retry_at_s: float = 0.0

    def available(self) -> float:
        """What is left of the whole quota as far as this router knows."""
        return max(0.0, self.remaining + self.left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What a request took from its tenant's leases."""

    slots: tuple[int, ...]
    tokens: float
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """What a request could not get."""

    name: str
    """Of the quota, or PLACES."""
    quota: Quota | None
    retry_after_s: float


class TenantLeases:
    """One tenant's leases and places on one router."""

    def __init__(self, tenant: str, config: TenantConfig, *, router: str, share: float) -> None:
        """Hold nothing.

        Args:
            tenant: its name.
            config: its limits.
            router: who holds.
            share: part of what is left that may be drawn ahead.
        """
        self.tenant = tenant
        self.leases = tuple(
            Lease(quota=quota, name=quota.name, unit=quota.unit, postpaid=quota.is_postpaid)
            for quota in config.quotas
        )
        self._router = router
        self._share = share
        self._places_max = config.concurrent_requests_max
        self.in_use = 0
        """Requests at work here."""
        self._held = 0
        self._places_empty_until_s = float("-inf")
        self._heard_at_s = float("-inf")
        self._returns: list[tuple[str, int, float]] = []

    def take(self, tokens: float, usd: float, now_s: float) -> Reservation | None:
        """Reserve for one request; None if the ledger has to be asked first."""
        if self._places_max is not None and self.in_use >= self._held:
            return None
        for lease in self.leases:
            if now_s >= lease.until_s:
                return None
            if lease.postpaid:
                if lease.remaining <= 0.0:
                    return None
            else:
                need = _need(lease.unit, tokens, usd)
                if lease.left < need or (need == 0.0 and lease.available() <= 0.0):
                    return None
        for lease in self.leases:
            if not lease.postpaid:
                need = _need(lease.unit, tokens, usd)
                lease.left -= need
                lease.spent += need
        self.in_use += 1
        return Reservation(slots=tuple([lease.slot for lease in self.leases]), tokens=tokens, usd=usd)

    def lack(self, tokens: float, usd: float, now_s: float) -> Lack | None:
        """What is known not to be had now, without asking."""
        for lease in self.leases:
            need = 0.0 if lease.postpaid else _need(lease.unit, tokens, usd)
            if now_s < lease.empty_until_s and (lease.left < need or lease.available() <= 0.0):
                return Lack(
                    name=lease.name, quota=lease.quota, retry_after_s=max(0.0, lease.retry_at_s - now_s)
                )
        if self._places_max is not None and self.in_use >= self._held and now_s < self._places_empty_until_s:
            return Lack(name=PLACES, quota=None, retry_after_s=1.0)
        return None

    def output_room(self, prompt_tokens: float, usd_per_token: tuple[float, float]) -> float:
        """The most output tokens for which there may be room, by quotas of tokens and money."""
        room = float("inf")
        heard = self._heard_at_s > float("-inf")
        price_in, price_out = usd_per_token
        for lease in self.leases:
            left = lease.available() if heard else lease.quota.limit
            if lease.unit is Unit.TOKENS:
                room = min(room, left - prompt_tokens)
            elif lease.unit is Unit.USD and price_out > 0.0:
                room = min(room, (left - prompt_tokens * price_in) / price_out)
        return room

    def too_large(self, tokens: float, usd: float) -> Quota | None:
        """The quota that could not hold a request even if nothing of it was used."""
        return next(
            (e.quota for e in self.leases if not e.postpaid and _need(e.unit, tokens, usd) > e.quota.limit),
            None,
        )

    def owe(self, tokens: float, usd: float) -> None:
        """Count what a request used that had reserved nothing."""
        for lease in self.leases:
            if not lease.postpaid:
                self._returns.append((lease.name, lease.slot, -_need(lease.unit, tokens, usd)))

    def settle(self, reservation: Reservation, *, tokens: float, usd: float, now_s: float) -> None:
        """A request is over: give back what it did not use, or owe what it used beyond."""
        self.in_use -= 1
        for lease, slot in zip(self.leases, reservation.slots, strict=True):
            if lease.unit is Unit.TOKENS:
                rest = reservation.tokens - tokens
            elif lease.unit is Unit.USD:
                rest = reservation.usd - usd
            else:
                continue
            if rest < 0.0 or (lease.slot == slot and now_s < lease.until_s):
                lease.left += rest
                lease.spent -= rest
            elif rest > 0.0:
                self._returns.append((lease.name, slot, rest))

    def charge_energy(self, energy_j: float) -> None:
        """Energy that requests have turned out to use."""
        for lease in self.leases:
            if lease.postpaid:
                self._returns.append((lease.name, lease.slot, -energy_j))
                lease.remaining -= energy_j

    def order(self, waiting: list[tuple[float, float]], now_s: float) -> Order:
        """What to ask the ledger for: for requests that wait (tokens, USD), and a little ahead."""
        needs: dict[str, float] = {}
        ahead: dict[str, float] = {}
        for lease in self.leases:
            self._give_back_expired(lease, now_s)
            if lease.postpaid or not waiting:
                continue
            wanted = sum(_need(lease.unit, tokens, usd) for tokens, usd in waiting) - lease.left
            if wanted > 0.0:
                needs[lease.name] = wanted
                ahead[lease.name] = _AHEAD * wanted + max(0.0, lease.spent)
        returns, self._returns = tuple(self._returns), []
        # What is given back is not to be taken meanwhile.
        self._held = min(self._held, self.in_use)
        return Order(
            tenant=self.tenant,
            router=self._router,
            needs=needs,
            ahead=ahead,
            returns=returns,
            places=self.in_use + len(waiting) if self._places_max is not None else 0,
            share=self._share,
        )

    def give_up(self, now_s: float) -> Order:
        """Give back everything: the router leaves."""
        for lease in self.leases:
            lease.until_s = float("-inf")
        self.in_use = 0
        return self.order([], now_s)

    def apply(self, reply: Reply, *, asked_at_s: float, wanted_places: int) -> None:
        """Take in what the ledger said."""
        self._heard_at_s = asked_at_s
        for lease in self.leases:
            name = lease.name
            slot = reply.slots[name]
            if slot != lease.slot:
                self._give_back(lease)
                lease.slot, lease.spent = slot, lease.spent / 2
            lease.left += reply.granted[name]
            lease.until_s = asked_at_s + reply.lasts_s[name]
            lease.remaining = reply.remaining[name]
            retry_s = reply.retry_after_s.get(name)
            lease.empty_until_s = float("-inf")
            if retry_s is not None:
                lease.retry_at_s = asked_at_s + retry_s
                lease.empty_until_s = asked_at_s + min(retry_s, _EMPTY_S)
        self._held = reply.places
        short = self._places_max is not None and reply.places < wanted_places
        self._places_empty_until_s = asked_at_s + _EMPTY_S if short else float("-inf")

    def has_to_tell(self, now_s: float, *, heartbeat_s: float) -> bool:
        """Whether the ledger should hear of something although nobody waits."""
        return (
            bool(self._returns)
            or (self._places_max is not None and self._held > self.in_use)
            or (self._held > 0 and now_s - self._heard_at_s > heartbeat_s)
            or any(lease.left != 0.0 and now_s >= lease.until_s for lease in self.leases)
        )

    def lost(self, order: Order) -> None:
        """An order did not get through: what it gave back stays counted, what was owed is told again."""
        self._returns += [entry for entry in order.returns if entry[2] < 0.0]

    def _give_back_expired(self, lease: Lease, now_s: float) -> None:
        if now_s >= lease.until_s:
            self._give_back(lease)

    def _give_back(self, lease: Lease) -> None:
        if lease.left:
            self._returns.append((lease.name, lease.slot, lease.left))
            lease.left = 0.0


def _need(unit: Unit, tokens: float, usd: float) -> float:
    if unit is Unit.TOKENS:
        return tokens
    return usd if unit is Unit.USD else 1.0
