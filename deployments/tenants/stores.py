"""Which stores the configuration names."""

import os
from pathlib import Path

from cluster.config.tenants import TenantStoreConfig
from deployments.tenants.keys import FileKeys, KeyStore
from deployments.tenants.ledger import Ledger
from deployments.tenants.sqlite_ledger import SqliteLedger

FOLDER = "tenants"
"""Within the state folder."""


def key_store(config: TenantStoreConfig, state_dir: str) -> KeyStore:
    """Where keys are."""
    if config.kind == "redis":
        from deployments.tenants.redis_keys import RedisKeys

        return RedisKeys(config.redis_url, password=_password(config), timeout_s=config.timeout_s)
    return FileKeys(Path(state_dir) / FOLDER / "keys.json")


def ledger(config: TenantStoreConfig, state_dir: str) -> Ledger:
    """Where accounts are; without a state folder they end with the process."""
    if config.kind == "redis":
        from deployments.tenants.redis_ledger import RedisLedger

        return RedisLedger(config.redis_url, password=_password(config), timeout_s=config.timeout_s)
    file = Path(state_dir) / FOLDER / "ledger.sqlite" if state_dir else None
    return SqliteLedger(file, timeout_s=config.timeout_s)


def _password(config: TenantStoreConfig) -> str | None:
    return os.environ.get(config.redis_password_env) if config.redis_password_env else None
