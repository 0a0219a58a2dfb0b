"""Admits requests of tenants: spends what was drawn ahead, and asks the ledger when that is not enough.

Nothing here blocks the event loop: the ledger is used in one thread. Requests of a tenant that have to wait
for it are asked for together.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cluster.config.tenants import TenantConfig, TenantStoreConfig
from cluster.entities.tenancy import Usage
from cluster.policy.tenancy.account import Order, Reply
from deployments.router.tenants.answers import refusal, store_away, too_large
from deployments.router.tenants.lease import Lack, Reservation, TenantLeases
from deployments.tenants.ledger import Ledger, LedgerAwayError, Terms, UsageRow

T = TypeVar("T")

logger = logging.getLogger("tidemill.router.tenants")

_TELL_PERIOD_S = 0.5
_HEARTBEAT_S = 2.0
_AWAY_S = 1.0
"""How long a ledger that did not answer is not asked for further requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a request may use."""

    prompt_tokens: int
    output_tokens: int
    flexible: bool
    """Whether the client left open how long the answer may be, so that less will do."""
    usd_per_token: tuple[float, float]
    """For prompt and output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asks:
    """What one request may ask of engines."""

    models: int = 1
    """How many answer it, one after the other."""
    judged: bool = False
    """Whether a model is shown each answer, with its question, to judge it."""


ONCE = Asks()


@dataclass(slots=True, eq=False)
class _Want:
    size: Size
    got: asyncio.Future[Reservation | Lack]


@dataclass(slots=True, eq=False)
class _State:
    leases: TenantLeases
    terms: Terms
    waiting: list[_Want]
    asking: asyncio.Task[None] | None = None


class TenantGate:
    """The leases of all tenants on one router."""

    def __init__(
        self,
        tenants: dict[str, TenantConfig],
        store: TenantStoreConfig,
        ledger: Ledger,
        *,
        router: str,
        routers: int,
        now_s: Callable[[], float],
        on_away: Callable[[], None],
    ) -> None:
        """Hold nothing yet.

        Args:
            tenants: by name.
            store: how long to wait, and what to do then.
            ledger: what is drawn from.
            router: this router's id.
            routers: how many there are.
            now_s: the router's clock.
            on_away: told whenever the ledger does not answer.
        """
        self._store = store
        self._ledger = ledger
        self._router = router
        self._now_s = now_s
        self._on_away = on_away
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tenant-ledger")
        self._states = {
            name: _State(TenantLeases(name, tenant, router=router, share=0.5 / routers), Terms.of(tenant), [])
            for name, tenant in tenants.items()
        }
        self._away_until_s = float("-inf")
        self._telling: asyncio.Task[None] | None = None
        self._usage: dict[str, Usage] = {}
        self._reports = 0
        self._report: dict[str, Usage] = {}
        """Sent, and not known to be counted."""

    def start(self) -> None:
        """Tell the ledger now and then what is used and given back."""
        self._telling = asyncio.create_task(self._tell_for_ever())

    async def close(self) -> None:
        """Give everything back."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        orders = [(s.leases.give_up(self._now_s()), s.terms) for s in self._states.values()]
        try:
            async with asyncio.timeout(2 * self._store.timeout_s):
                await self._in_thread(lambda: self._ledger.exchange(orders))
                await self._report_usage()
        except Exception as error:  # noqa: BLE001 - leaving must not fail on it
            logger.warning("what tenants used last was not written: %s", type(error).__name__)
        self._thread.submit(self._ledger.close)
        self._thread.shutdown(wait=False)

    def leases(self, tenant: str) -> TenantLeases:
        """Of one tenant."""
        return self._states[tenant].leases

    def used(self, tenant: str, usage: Usage) -> None:
        """Count what was used."""
        self._usage[tenant] = self._usage.get(tenant, Usage()) + usage

    async def usage(self) -> list[UsageRow]:
        """What was used so far, this router's latest included.

        Raises:
            LedgerAwayError: nobody knows now.
        """
        await self._report_usage()
        rows: list[UsageRow] = await self._in_thread(self._ledger.usage)
        return rows

    def could_fit(self, tenant: str, size: Size) -> bool:
        """Whether a request would be let in if nothing was used yet."""
        leases = self._states[tenant].leases
        return leases.too_large(*_reserve(leases, size)) is None

    async def admit(self, tenant: str, size: Size) -> Reservation | None:
        """Reserve what a request may use; None if it is let in although nobody could be asked.

        Raises:
            ApiError: 402, 429, or 503 where limits cannot be checked and must be.
        """
        state = self._states[tenant]
        now_s = self._now_s()
        tokens, usd = _reserve(state.leases, size)
        quota = state.leases.too_large(tokens, usd)
        if quota is not None:
            raise too_large(quota)
        if not state.waiting:
            reservation = state.leases.take(tokens, usd, now_s)
            if reservation is not None:
                return reservation
            lack = state.leases.lack(tokens, usd, now_s)
            if lack is not None:
                raise refusal(lack)
        if now_s < self._away_until_s:
            self._unchecked()
            return None
        return await self._wait(state, size)

    async def _wait(self, state: _State, size: Size) -> Reservation | None:
        want = _Want(size, asyncio.get_running_loop().create_future())
        state.waiting.append(want)
        if state.asking is None:
            state.asking = asyncio.create_task(self._ask(state))
        try:
            async with asyncio.timeout(self._store.timeout_s):
                got = await want.got
        except TimeoutError:
            if not _has_come(want.got):
                self._away("it took too long")
                self._unchecked()
                return None
            got = want.got.result()  # it came in the instant in which the time was up
        except LedgerAwayError:
            self._unchecked()
            return None
        except asyncio.CancelledError:
            result = want.got.result() if _has_come(want.got) else None
            if isinstance(result, Reservation):
                state.leases.settle(result, tokens=0.0, usd=0.0, now_s=self._now_s())
            raise
        finally:
            if want in state.waiting:
                state.waiting.remove(want)
        if isinstance(got, Lack):
            raise refusal(got)
        return got

    def _unchecked(self) -> None:
        """Let a request in without asking, if that is what is wanted."""
        if self._store.when_away == "refuse":
            raise store_away()

    async def _ask(self, state: _State) -> None:
        """Ask the ledger until nobody of the tenant waits."""
        try:
            while state.waiting:
                await self._ask_once(state)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the ledger, nobody must hang on it
            known = isinstance(error, LedgerAwayError)
            self._away(str(error) if known else type(error).__name__)
            for want in state.waiting:
                if not want.got.done():
                    want.got.set_exception(error if known else LedgerAwayError("it failed"))
        finally:
            state.asking = None

    async def _ask_once(self, state: _State) -> None:
        leases, wants = state.leases, list(state.waiting)
        asked_at_s = self._now_s()
        order = leases.order([_reserve(leases, want.size) for want in wants], asked_at_s)
        reply = await self._exchange(state, order)
        leases.apply(reply, asked_at_s=asked_at_s, wanted_places=order.places)
        for want in wants:
            if want.got.done():
                continue
            tokens, usd = _reserve(leases, want.size)
            got = leases.take(tokens, usd, self._now_s()) or leases.lack(tokens, usd, self._now_s())
            if got is not None:
                want.got.set_result(got)
                state.waiting.remove(want)

    async def _exchange(self, state: _State, order: Order) -> Reply:
        try:
            replies: list[Reply] = await self._in_thread(
                lambda: self._ledger.exchange([(order, state.terms)])
            )
        except Exception:
            state.leases.lost(order)
            raise
        return replies[0]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _away(self, why: str) -> None:
        if self._now_s() >= self._away_until_s:
            logger.warning("the ledger of tenants is away: %s", why)
        self._away_until_s = self._now_s() + _AWAY_S
        self._on_away()

    async def _tell_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_TELL_PERIOD_S)
            try:
                await self._tell()
            except LedgerAwayError as error:
                self._away(str(error))
            except Exception:
                logger.exception("the ledger of tenants was not told")

    async def _tell(self) -> None:
        for state in self._states.values():
            now_s = self._now_s()
            if state.asking is None and state.leases.has_to_tell(now_s, heartbeat_s=_HEARTBEAT_S):
                order = state.leases.order([], now_s)
                reply = await self._exchange(state, order)
                state.leases.apply(reply, asked_at_s=now_s, wanted_places=order.places)
        await self._report_usage()

    async def _report_usage(self) -> None:
        """Send a report; the same one again until it is known to be counted."""
        while self._report or self._usage:
            if not self._report:
                self._report, self._usage = self._usage, {}
                self._reports += 1
            report = self._report
            await self._in_thread(partial(self._ledger.add_usage, self._router, self._reports, report))
            if self._report is report:
                self._report = {}


def _has_come(got: asyncio.Future[Reservation | Lack]) -> bool:
    return got.done() and not got.cancelled() and got.exception() is None


def _reserve(leases: TenantLeases, size: Size) -> tuple[float, float]:
    """Tokens and USD to reserve now."""
    output = float(size.output_tokens)
    if size.flexible:
        output = max(1.0, min(output, leases.output_room(size.prompt_tokens, size.usd_per_token)))
    price_in, price_out = size.usd_per_token
    return size.prompt_tokens + output, size.prompt_tokens * price_in + output * price_out
