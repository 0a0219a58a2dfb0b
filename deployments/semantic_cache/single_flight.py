"""Single-flight: of many equal requests at the same time, one computes and the others wait for its answer.

It exists because a popular prompt that is not cached yet would otherwise be computed once per client. The
first asker gets a lease and leads; whoever asks the same meanwhile waits. The leader's answer goes to all of
them. A leader that gives up, or that holds its lease too long, is succeeded by exactly one of those who wait.

All methods but `wait` are synchronous and must be called on the event loop: between a failed look-up and the
lease nothing else can run, so two askers never both lead.
"""

import asyncio
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from cluster.config.semantic_cache import ExactTierConfig
from deployments.semantic_cache.exact import Entry, EntryKey

ANSWER_TAKES_MAX_S = 900.0
"""After so long nobody comes with an answer that was asked before a purge; gateways give up after ten minutes
by default."""
_PURGES_MAX = 1024


class LeaseMismatchError(Exception):
    """A lease was presented with a key that it was not granted for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The duty to compute an answer and then store it or release the lease."""

    token: str
    key: EntryKey
    holder: str = ""
    """The router that computes; empty if it did not say."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Waiter:
    """One asker who waits for another one's answer."""

    key: EntryKey
    holder: str
    """The router that asks."""
    outcome: "asyncio.Future[Entry | Lease | None]"


@dataclass(slots=True, eq=False)
class _Grant:
    lease: Lease
    timer: asyncio.TimerHandle
    is_void: bool = False


@dataclass(slots=True, eq=False)
class _Flight:
    lease: Lease
    waiters: dict[Waiter, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleFlightStats:
    """Who leads and waits now, and what happened since the start."""

    leases: int
    waiters: int
    promoted: int
    """Waiters who took the place of their leader."""
    expired: int
    """Leases that ran out."""
    turned_away: int
    """Askers who were told to compute alone because a bound was reached."""


class SingleFlight:
    """The leases and the waiters of one replica of the cache.

    At most `single_flight_waiters_max` askers wait, and at most `entries_max` leases are given out to first
    askers: more answers than can be kept need no leader.
    """

    def __init__(self, config: ExactTierConfig) -> None:
        self._config = config
        self._grants: dict[str, _Grant] = {}
        self._flights: dict[EntryKey, _Flight] = {}
        self._purges: OrderedDict[tuple[str | None, str | None], float] = OrderedDict()
        """When the answers of a tenant and model were purged last."""
        self._waiters = 0
        self._promoted = 0
        self._expired = 0
        self._turned_away = 0

    def ask(self, key: EntryKey, holder: str = "") -> Lease | Waiter | None:
        """What an asker without an answer is to do.

        Args:
            key: What is asked.
            holder: The router that asks.

        Returns:
            A lease to compute for everybody, a waiter to hand to `wait`, or None to compute alone.
        """
        if self._config.single_flight_wait_s == 0:
            return None
        flight = self._flights.get(key)
        if flight is None:
            if len(self._grants) >= self._config.entries_max:
                self._turned_away += 1
                return None
            lease = self._grant(key, holder)
            self._flights[key] = _Flight(lease=lease)
            return lease
        if self._waiters >= self._config.single_flight_waiters_max:
            self._turned_away += 1
            return None
        waiter = Waiter(key=key, holder=holder, outcome=asyncio.get_running_loop().create_future())
        flight.waiters[waiter] = None
        self._waiters += 1
        return waiter

    def is_led(self, key: EntryKey) -> bool:
        """Whether somebody computes the answer, so that `ask` would make its caller wait."""
        return key in self._flights

    async def wait(self, waiter: Waiter, *, gone: Coroutine[Any, Any, None]) -> Entry | Lease | None:
        """Waits for the leader's answer, for a promotion, or for `single_flight_wait_s` to pass.

        Args:
            waiter: What `ask` returned.
            gone: Ends when the asker has left; the waiter is then taken out and a lease it got is passed on.

        Returns:
            The answer, a lease (the asker leads now), or None: compute alone, or the asker has left.
        """
        departure = asyncio.create_task(gone)
        either: set[asyncio.Future[Any]] = {waiter.outcome, departure}
        taken = False
        try:
            await asyncio.wait(
                either,
                timeout=self._config.single_flight_wait_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if departure.done() or not waiter.outcome.done():
                return None
            taken = True
            return waiter.outcome.result()
        finally:
            departure.cancel()
            if not taken:
                self._leave(waiter)

    def check(self, token: str | None, key: EntryKey) -> bool:
        """Whether an answer for `key` may be stored under a lease.

        Without one, or if it ran out, nobody knows when it was asked: then it may be unless there was a purge
        of late.

        Returns:
            False if the answer is from before a purge, or may be.

        Raises:
            LeaseMismatchError: The lease is for another key.
        """
        grant = self._grants.get(token) if token else None
        if grant is None:
            return not self._may_be_from_before_a_purge(key)
        if grant.lease.key != key:
            raise LeaseMismatchError("the lease was granted for another key")
        return not grant.is_void

    def land(self, key: EntryKey, entry: Entry | None) -> int:
        """Ends the flight of a key: all who wait get the answer (None: compute alone).

        Returns:
            How many waited.
        """
        flight = self._flights.pop(key, None)
        if flight is None:
            return 0
        self._revoke(flight.lease.token)
        for waiter in flight.waiters:
            waiter.outcome.set_result(entry)
        self._waiters -= len(flight.waiters)
        return len(flight.waiters)

    def release(self, token: str) -> bool:
        """Gives a lease back without an answer; the asker who waits longest leads now.

        Returns:
            False if there is no such lease (any more), which is no error: it may have run out.
        """
        grant = self._revoke(token)
        if grant is None:
            return False
        if not grant.is_void:
            self._succeed(grant.lease.key)
        return True

    def release_of(self, silent: Callable[[str], bool]) -> int:
        """Gives back the leases of routers that are gone.

        Args:
            silent: Tells which those are.

        Returns:
            How many leases they held.
        """
        gone = [token for token, grant in self._grants.items() if silent(grant.lease.holder)]
        for token in gone:
            self.release(token)
        return len(gone)

    def void(self, tenant: str | None, model: str | None) -> int:
        """After a purge: answers that are being computed now must neither be stored nor served to who waits.

        Returns:
            How many leases were voided. Where somebody waited, one of them leads a new computation.
        """
        self._purges[tenant, model] = asyncio.get_running_loop().time()
        self._purges.move_to_end((tenant, model))
        while len(self._purges) > _PURGES_MAX:
            # What is no longer remembered by name has purged everything.
            (_, at_s), everything = self._purges.popitem(last=False), (None, None)
            self._purges[everything] = max(at_s, self._purges.get(everything, at_s))
        doomed = [
            key
            for key in self._flights
            if (tenant is None or key.tenant == tenant) and (model is None or key.model == model)
        ]
        for key in doomed:
            # The grant stays until its holder comes back or its time is over, to be recognised as void.
            self._grants[self._flights[key].lease.token].is_void = True
            self._succeed(key)
        return len(doomed)

    def stats(self) -> SingleFlightStats:
        """The present numbers and the counters."""
        return SingleFlightStats(
            leases=len(self._grants),
            waiters=self._waiters,
            promoted=self._promoted,
            expired=self._expired,
            turned_away=self._turned_away,
        )

    def close(self) -> None:
        """Lets everybody who waits compute alone and forgets all leases."""
        for key in list(self._flights):
            self.land(key, None)
        for token in list(self._grants):
            self._revoke(token)

    def _may_be_from_before_a_purge(self, key: EntryKey) -> bool:
        since_s = asyncio.get_running_loop().time() - ANSWER_TAKES_MAX_S
        scopes = ((tenant, model) for tenant in (None, key.tenant) for model in (None, key.model))
        return any(self._purges.get(scope, -math.inf) >= since_s for scope in scopes)

    def _grant(self, key: EntryKey, holder: str) -> Lease:
        lease = Lease(token=secrets.token_hex(16), key=key, holder=holder)
        timer = asyncio.get_running_loop().call_later(self._config.lease_s, self._run_out, lease.token)
        self._grants[lease.token] = _Grant(lease=lease, timer=timer)
        return lease

    def _run_out(self, token: str) -> None:
        self._expired += 1
        self.release(token)

    def _revoke(self, token: str) -> _Grant | None:
        grant = self._grants.pop(token, None)
        if grant is not None:
            grant.timer.cancel()
        return grant

    def _succeed(self, key: EntryKey) -> None:
        flight = self._flights[key]
        if not flight.waiters:
            del self._flights[key]
            return
        successor = next(iter(flight.waiters))
        del flight.waiters[successor]
        self._waiters -= 1
        self._promoted += 1
        flight.lease = self._grant(key, successor.holder)
        successor.outcome.set_result(flight.lease)

    def _leave(self, waiter: Waiter) -> None:
        flight = self._flights.get(waiter.key)
        if flight is not None and waiter in flight.waiters:
            del flight.waiters[waiter]
            self._waiters -= 1
        if waiter.outcome.done():
            outcome = waiter.outcome.result()
            # Promoted and gone at the same instant: somebody else must lead.
            if isinstance(outcome, Lease):
                self.release(outcome.token)
