"""The ledger on a Redis or Valkey server, for routers on several machines.

An order is one optimistic transaction (WATCH, MULTI, EXEC) with the same rules as the file's; it is tried
again if another router came between. Time is the server's, so that clocks of machines need not agree.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import redis

from cluster.entities.tenancy import Usage, Window
from cluster.policy.tenancy.account import Order, Reply, exchange
from cluster.policy.tenancy.windows import forgotten_s
from deployments.tenants.ledger import (
    USAGE_KEPT_S,
    LedgerAwayError,
    Terms,
    UsageRow,
    from_json,
    nonzero,
    to_json,
    usage_from,
    usage_slots,
)

_PREFIX = "tidemill:tenancy:"
_TRIES = 50
_ACCOUNT_KEPT_S = 62 * 86_400
"""Longer than the longest window."""
_REPORTS_KEPT_S = 86_400


class RedisLedger:
    """See `Ledger`."""

    def __init__(self, url: str, *, password: str | None, timeout_s: float) -> None:
        self._client: Any = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            decode_responses=True,
            **({} if password is None else {"password": password}),
        )

    def open(self) -> None:
        """See `Ledger`."""
        try:
            self._client.ping()
        except redis.RedisError as error:
            raise _away(error) from None

    def close(self) -> None:
        """See `Ledger`."""
        self._client.close()

    def exchange(self, orders: Sequence[tuple[Order, Terms]]) -> list[Reply]:
        """See `Ledger`."""
        try:
            return [self._one(order, terms) for order, terms in orders]
        except redis.RedisError as error:
            raise _away(error) from None

    def _one(self, order: Order, terms: Terms) -> Reply:
        key = f"{_PREFIX}account:{order.tenant}"
        with self._client.pipeline(transaction=True) as together:
            for _ in range(_TRIES):
                together.watch(key)
                seconds, micros = together.time()
                before = from_json(together.get(key))
                after, reply = exchange(before, order, terms.quotas, terms.places_max, seconds + micros / 1e6)
                together.multi()
                together.set(key, to_json(after), ex=_ACCOUNT_KEPT_S)
                try:
                    together.execute()
                except redis.WatchError:
                    continue
                return reply
        raise LedgerAwayError(f"another router came between {_TRIES} times")

    def add_usage(self, router: str, number: int, used: Mapping[str, Usage]) -> None:
        """See `Ledger`."""
        last = f"{_PREFIX}report:{router}"
        try:
            with self._client.pipeline(transaction=True) as together:
                together.watch(last)
                if int(together.get(last) or 0) >= number:
                    return
                seconds, _ = together.time()
                together.multi()
                together.set(last, number, ex=_REPORTS_KEPT_S)
                for window, slot in usage_slots(seconds):
                    until_s = int(forgotten_s(window, slot) + USAGE_KEPT_S[window])
                    for tenant, usage in used.items():
                        key = f"{_PREFIX}usage:{window.value}:{slot}:{tenant}"
                        for name, amount in nonzero(usage).items():
                            together.hincrbyfloat(key, name, amount)
                        together.expireat(key, until_s)
                together.execute()
        except redis.RedisError as error:
            raise _away(error) from None

    def usage(self) -> list[UsageRow]:
        """See `Ledger`."""
        rows: list[UsageRow] = []
        try:
            for key in self._client.scan_iter(match=f"{_PREFIX}usage:*", count=500):
                window, slot, tenant = key.removeprefix(f"{_PREFIX}usage:").split(":", 2)
                parts = {name: float(value) for name, value in self._client.hgetall(key).items()}
                rows.append(
                    UsageRow(tenant=tenant, window=Window(window), slot=int(slot), usage=usage_from(parts))
                )
        except redis.RedisError as error:
            raise _away(error) from None
        return sorted(rows, key=lambda row: (row.tenant, row.window, row.slot))


def _away(error: Exception) -> LedgerAwayError:
    # An address may hold a password, so the error's own words are not repeated.
    return LedgerAwayError(f"the ledger's server does not answer ({type(error).__name__})")
