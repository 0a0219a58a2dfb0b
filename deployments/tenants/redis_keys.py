"""API keys on a Redis or Valkey server, for routers on several machines.

Apart from the file's, because the client library is slow to import and brings OpenTelemetry along: a gateway
without such a server has neither.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import redis

from cluster.entities.tenancy import ApiKey
from deployments.tenants.keys import Keys, KeysUnreadableError

_REDIS_KEYS = "tidemill:tenancy:keys"
_REDIS_VERSION = "tidemill:tenancy:keys_version"


class RedisKeys:
    """A hash on a Redis or Valkey server."""

    def __init__(self, url: str, *, password: str | None, timeout_s: float) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            decode_responses=True,
            **({} if password is None else {"password": password}),
        )

    def version(self) -> object:
        """See `KeyStore`."""
        try:
            return self._client.get(_REDIS_VERSION)
        except redis.RedisError as error:
            raise _away(error) from None

    def read(self) -> Keys:
        """See `KeyStore`."""
        try:
            return _parsed(self._client.hgetall(_REDIS_KEYS))  # type: ignore[arg-type]
        except redis.RedisError as error:
            raise _away(error) from None

    def change(self, edit: Callable[[Keys], Keys]) -> Keys:
        """See `KeyStore`."""
        try:
            changed: Any = self._client.transaction(
                lambda pipe: _rewrite(pipe, edit),  # type: ignore[arg-type]
                _REDIS_KEYS,
                value_from_callable=True,
            )
        except redis.RedisError as error:
            raise _away(error) from None
        keys: Keys = changed
        return keys


def _rewrite(pipe: "redis.client.Pipeline", edit: Callable[[Keys], Keys]) -> Keys:
    keys = edit(_parsed(pipe.hgetall(_REDIS_KEYS)))  # type: ignore[arg-type]
    pipe.multi()
    pipe.delete(_REDIS_KEYS)
    if keys:
        pipe.hset(_REDIS_KEYS, mapping={key: json.dumps(asdict(value)) for key, value in keys.items()})
    pipe.incr(_REDIS_VERSION)
    return keys


def _parsed(rows: dict[str, str]) -> Keys:
    try:
        return {key_id: ApiKey(**json.loads(row)) for key_id, row in rows.items()}
    except (ValueError, TypeError) as error:
        raise KeysUnreadableError(f"the keys on the server are damaged ({type(error).__name__})") from None


def _away(error: Exception) -> KeysUnreadableError:
    # An address may hold a password, so the error's own words are not repeated.
    return KeysUnreadableError(f"the server with the keys does not answer ({type(error).__name__})")
