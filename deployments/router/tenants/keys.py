"""Who calls: API keys against the store of keys, which is looked at again and again."""

import asyncio
import contextlib
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.config import TidemillConfig
from cluster.config.tenants import TenantConfig
from deployments.router.tenants.answers import no_key, store_away
from deployments.tenants.keys import Keys, KeyStore, KeysUnreadableError, recognise

logger = logging.getLogger("tidemill.router.tenants")

OPERATOR = "operator"
"""The tenant of who holds the admin key: no limits, so that the operator's own probes and chats work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sent a request."""

    tenant: str
    config: TenantConfig
    models: frozenset[str] | None
    """Served models and open names that it may ask; None for all."""
    names: tuple[str, ...] = ()
    """The same in the configuration's words."""


class KeyRing:
    """The keys that are valid now."""

    def __init__(
        self, config: TidemillConfig, store: KeyStore, admin_key: str, wall_s: Callable[[], float]
    ) -> None:
        """Know no key yet.

        Args:
            config: the tenants.
            store: where keys are.
            admin_key: the operator's.
            wall_s: Unix time.
        """
        self._store = store
        self._admin_key = admin_key.encode()
        self._wall_s = wall_s
        self._period_s = config.tenants.store.keys_reload_s
        self._callers = {
            name: Caller(
                tenant=name, config=tenant, models=_models(config, tenant), names=tenant.models or ()
            )
            for name, tenant in config.tenants.tenants.items()
        }
        self._operator = Caller(tenant=OPERATOR, config=TenantConfig(), models=None)
        self._keys: Keys | None = None
        self._version: object = object()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the keys and go on looking for changes."""
        await self._look()
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """Who sends these headers.

        Raises:
            ApiError: 401, or 503 if no keys could be read yet.
        """
        text = headers.get("authorization", "")
        text = text[7:].strip() if text[:7].lower() == "bearer " else headers.get("x-api-key", "").strip()
        if self._admin_key and hmac.compare_digest(text.encode(), self._admin_key):
            return self._operator
        if self._keys is None:
            raise store_away()
        record = recognise(text, self._keys)
        caller = None if record is None else self._callers.get(record.tenant)
        if record is None or caller is None:
            raise no_key()
        if not record.is_valid(self._wall_s()):
            raise no_key(expired=True)
        return caller

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            await self._look()

    async def _look(self) -> None:
        try:
            version = await asyncio.to_thread(self._store.version)
            if version != self._version:
                self._keys = await asyncio.to_thread(self._store.read)
                self._version = version
        except KeysUnreadableError as error:
            # Those that were known stay valid: losing the store must not lock everybody out.
            logger.warning("API keys not read: %s", error)
        except Exception:
            # Looking must not end: a key that is revoked later would stay valid.
            logger.exception("API keys not read")


def _models(config: TidemillConfig, tenant: TenantConfig) -> frozenset[str] | None:
    if tenant.models is None:
        return None
    return frozenset(config.model_for(name) or name for name in tenant.models)
