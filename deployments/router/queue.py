"""The bounded queue of requests that wait for an engine.

A request is in flight from its grant until it gives its place back; one that waits, or is answered from the
cache, holds no place. So models whose replicas are gone do not take places from those that are served.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster.config.gateway import GatewayConfig
from cluster.policy.admission import Verdict, admit
from deployments.router.errors import ApiError, overloaded

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Waiter:
    key: str
    attempt: Callable[[], Any]
    granted: asyncio.Future[Any]


class AdmissionQueue:
    """First come, first served within a model; bounded in number and time."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._waiting: dict[int, _Waiter] = {}
        self.in_flight = 0
        """Requests that hold a place."""

    @property
    def queued(self) -> int:
        """Requests that wait now."""
        return len(self._waiting)

    def queued_by_key(self) -> dict[str, int]:
        """Requests that wait now, by what they want."""
        return dict(Counter(waiter.key for waiter in self._waiting.values()))

    def check(self) -> None:
        """Refuse a request that could only be queued where there is no room.

        Raises:
            ApiError: 429.
        """
        admission = admit(in_flight=self.in_flight, queued=self.queued, config=self._config)
        if admission.verdict is Verdict.REJECT:
            raise overloaded(
                f"{self.in_flight} requests are being answered and {self.queued} wait; try again shortly.",
                status=429,
                retry_after_s=admission.retry_after_s,
            )

    async def until(
        self,
        attempt: Callable[[], T | None],
        *,
        key: str,
        discard: Callable[[T], None],
        timeout_s: float,
        why: Callable[[], str],
    ) -> T:
        """Wait until the attempt gives a result; those of the same key who came earlier go first.

        Args:
            attempt: takes what is wanted, if it is there; None means not now. With the result goes a place,
                which the caller gives back with `leave`.
            key: requests that want the same thing (the model).
            discard: gives back what was taken for a request that has gone meanwhile.
            timeout_s: how long to wait at most.
            why: says, when the time is up, what was missing.

        Raises:
            ApiError: 429 if the queue is full, 503 when the time is up.
        """
        if not any(waiter.key == key for waiter in self._waiting.values()):
            result = self._try(attempt)
            if result is not None:
                return result
        if len(self._waiting) >= self._config.max_queued_requests:
            raise overloaded("The queue is full; try again shortly.", status=429, retry_after_s=1)
        waiter = _Waiter(key, attempt, asyncio.get_running_loop().create_future())
        self._waiting[id(waiter)] = waiter
        try:
            async with asyncio.timeout(timeout_s):
                granted: T = await waiter.granted
                return granted
        except TimeoutError:
            if _has_result(waiter.granted):  # granted in the instant in which the time was up
                return waiter.granted.result()  # type: ignore[no-any-return]
            raise overloaded(f"{why()} Waited {timeout_s:.0f} s.", status=503, retry_after_s=5) from None
        except asyncio.CancelledError:
            if _has_result(waiter.granted):
                discard(waiter.granted.result())
                self.leave()
            raise
        finally:
            self._waiting.pop(id(waiter), None)

    def leave(self) -> None:
        """Give a place back."""
        self.in_flight -= 1
        self.wake()

    def _try(self, attempt: Callable[[], T | None]) -> T | None:
        if self.in_flight >= self._config.max_concurrent_requests:
            return None
        result = attempt()
        self.in_flight += result is not None
        return result

    def wake(self) -> None:
        """Something has become free or changed: serve those in line, until nothing more is to be had."""
        nothing_for: set[str] = set()
        for waiter in list(self._waiting.values()):
            if waiter.key in nothing_for or waiter.granted.done():
                continue
            try:
                result = self._try(waiter.attempt)
            except ApiError as error:  # refused after all
                del self._waiting[id(waiter)]
                waiter.granted.set_exception(error)
                continue
            if result is None:
                nothing_for.add(waiter.key)
            else:
                del self._waiting[id(waiter)]
                waiter.granted.set_result(result)


def _has_result(granted: asyncio.Future[Any]) -> bool:
    return granted.done() and not granted.cancelled() and granted.exception() is None
