"""The bounded queue of requests that wait for an engine.

A request is in flight from its grant until it gives its place back; one that waits, or is answered from the
cache, holds no place. So models whose replicas are gone do not take places from those that are served.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from cluster.config.gateway import GatewayConfig
from cluster.config.tenants import FairnessConfig
from cluster.entities.reasons import Reason
from cluster.policy.admission import Verdict, admit
from cluster.policy.tenancy.fair_order import Flow
from deployments.router.admission.waiting_line import Waiter, WaitingLines
from deployments.router.wire.errors import overloaded

T = TypeVar("T")

_EVERYBODY = Flow()


class AdmissionQueue:
    """First come, first served within a tenant, fair between tenants; bounded in number and time."""

    def __init__(
        self,
        config: GatewayConfig,
        fairness: FairnessConfig | None = None,
        *,
        flow_of: Callable[[str], Flow] = lambda _: _EVERYBODY,
        places_of: Callable[[str], int] = lambda _: 0,
    ) -> None:
        """Start empty.

        Args:
            config: bounds.
            fairness: how tenants share.
            flow_of: a tenant's class and weight; without it all are one.
            places_of: how many requests the replicas of a key take at a time; 0 where it does not matter.
        """
        self._config = config
        self._lines = WaitingLines(fairness or FairnessConfig(), flow_of=flow_of, places_of=places_of)
        self.in_flight = 0
        """Requests that hold a place."""

    @property
    def queued(self) -> int:
        """Requests that wait now."""
        return self._lines.waiting

    def queued_by_key(self) -> dict[str, int]:
        """Requests that wait now, by what they want."""
        return self._lines.by_key()

    def check(self, tenant: str = "") -> None:
        """Refuse a request that could only be queued where there is no room.

        Raises:
            ApiError: 429.
        """
        admission = admit(in_flight=self.in_flight, queued=self.queued, config=self._config)
        if admission.verdict is Verdict.REJECT and self._lines.gives_way(tenant) is None:
            raise overloaded(
                f"{self.in_flight} requests are being answered and {self.queued} wait; try again shortly.",
                status=429,
                retry_after_s=admission.retry_after_s,
                reason=admission.reason,
            )

    async def until(
        self,
        attempt: Callable[[], T | None],
        *,
        key: str,
        discard: Callable[[T], None],
        timeout_s: float,
        why: Callable[[], str],
        tenant: str = "",
        cost_tokens: float = 1.0,
        wants: Hashable = None,
        on_wait: Callable[[], None] | None = None,
    ) -> T:
        """Wait until the attempt gives a result; those of the same key and tenant who came earlier go first.

        Args:
            attempt: takes what is wanted, if it is there; None means not now. With the result goes a place,
                which the caller gives back with `leave`.
            key: requests that want the same thing (the model).
            discard: gives back what was taken for a request that has gone meanwhile.
            timeout_s: how long to wait at most.
            why: says, when the time is up, what was missing.
            tenant: whose request it is.
            cost_tokens: what it counts for in the tenant's share.
            wants: what the attempt would take, where it is not everything: it does not hold up who wants
                something else.
            on_wait: told if the request has to stand in line.

        Raises:
            ApiError: 429 if the queue is full, 503 when the time is up.
        """
        now_s = asyncio.get_running_loop().time()
        waiter = Waiter(
            key=key,
            flow=self._lines.flow_of(tenant),
            cost_tokens=cost_tokens,
            attempt=attempt,
            granted=asyncio.get_running_loop().create_future(),
            waits_since_s=now_s,
            wants=wants,
        )
        self._lines.asks(waiter.flow, now_s)
        if not self._lines.has(key, waiter.flow.tenant, wants):
            result = self._try(waiter, now_s)
            if result is not None:
                return result  # type: ignore[no-any-return]
        self._make_room(waiter)
        self._lines.add(waiter)
        if on_wait is not None:
            on_wait()
        try:
            async with asyncio.timeout(timeout_s):
                granted: T = await waiter.granted
                return granted
        except TimeoutError:
            if _has_result(waiter.granted):  # granted in the instant in which the time was up
                return waiter.granted.result()  # type: ignore[no-any-return]
            message = f"{why()} Waited {timeout_s:.0f} s."
            reason = Reason.QUEUE_TIMED_OUT
            raise overloaded(message, status=503, retry_after_s=5, reason=reason) from None
        except asyncio.CancelledError:
            if _has_result(waiter.granted):
                discard(waiter.granted.result())
                self.leave(key, tenant)
            raise
        finally:
            self._lines.remove(waiter)

    def leave(self, key: str, tenant: str = "") -> None:
        """Give a place back."""
        self.in_flight -= 1
        self._lines.left(key, tenant)
        self.wake()

    def _make_room(self, waiter: Waiter) -> None:
        """Where the queue is full, the newest of the longest line gives way, which may be this one."""
        if self._lines.waiting < self._config.max_queued_requests:
            return
        full = overloaded(
            "The queue is full; try again shortly.", status=429, retry_after_s=1, reason=Reason.QUEUE_FULL
        )
        victim = self._lines.gives_way(waiter.flow.tenant)
        if victim is None:
            raise full
        self._lines.remove(victim)
        if not victim.granted.done():  # else it has left in this instant
            victim.granted.set_exception(full)

    def _try(self, waiter: Waiter, now_s: float) -> Any:
        if self.in_flight >= self._config.max_concurrent_requests or not self._lines.may_take(waiter, now_s):
            return None
        result = waiter.attempt()
        if result is not None:
            self.in_flight += 1
            self._lines.entered(waiter)
        return result

    def wake(self) -> None:
        """Something has become free or changed: serve those in line, until nothing more is to be had."""
        for key in self._lines.keys_waiting():
            self._serve(key)

    def _serve(self, key: str) -> None:
        now_s = asyncio.get_running_loop().time()
        refused: set[str] = set()
        futile: set[Hashable] = set()
        while True:
            waiter = self._lines.next(key, refused, futile, now_s=now_s)
            if waiter is None:
                return
            if waiter.granted.done():
                self._lines.remove(waiter)
                continue
            try:
                result = self._try(waiter, now_s)
            except Exception as error:  # noqa: BLE001 - refused after all; whatever it is, it is not the waker's
                self._lines.remove(waiter)
                waiter.granted.set_exception(error)
                continue
            if result is not None:
                self._lines.remove(waiter)
                waiter.granted.set_result(result)
            elif self._lines.may_take(waiter, now_s):
                futile.add(waiter.wants)
            else:
                refused.add(waiter.flow.tenant)


def _has_result(granted: asyncio.Future[Any]) -> bool:
    return granted.done() and not granted.cancelled() and granted.exception() is None
