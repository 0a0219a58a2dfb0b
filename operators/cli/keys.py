"""`tidemill keys` and `tidemill usage`: keys of tenants, and what tenants have used."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table

from cluster.config import TidemillConfig
from cluster.entities.tenancy import ApiKey
from deployments.tenants.keys import Keys, KeyStore, KeysUnreadableError, new_key, shown
from deployments.tenants.stores import key_store
from operators.cli.configuration import read_config
from operators.cli.console import CliError
from operators.cli.gateway_client import admin_get
from operators.cli.state import load_state, state_dir_of

_WIDTH = 160
_DAY_S = 86_400.0


def create(
    tenant: str, *, name: str, expires_days: float | None, config_path: Path | None, json_output: bool
) -> None:
    """Make a key and print it, once.

    Raises:
        CliError: there is no such tenant, or the keys cannot be written.
    """
    config, store = _opened(config_path)
    if tenant not in config.tenants.tenants:
        known = ", ".join(config.tenants.tenants) or "none"
        raise CliError(f"no tenant {tenant!r} in the configuration; tenants.tenants has: {known}")
    now_s = time.time()
    expires_at_s = None if expires_days is None else now_s + expires_days * _DAY_S
    record, text = new_key(tenant, name=name, now_s=now_s, expires_at_s=expires_at_s)
    _change(store, lambda keys: {**keys, record.key_id: record})
    _print_new(record, text, json_output=json_output)


def rotate(reference: str, *, grace_s: float, config_path: Path | None, json_output: bool) -> None:
    """Make a key in another one's place; the old one ends after a while.

    Raises:
        CliError: there is no such key, or it is no longer valid.
    """
    _, store = _opened(config_path)
    now_s = time.time()
    old = _found(_read(store), reference)
    if not old.is_valid(now_s):
        raise CliError(f"{shown(old)} is not valid any more; make a new one with `tidemill keys create`")
    record, text = new_key(old.tenant, name=old.name, now_s=now_s, expires_at_s=old.expires_at_s)
    ends_at_s = now_s + grace_s
    if old.revoked_at_s is not None:
        ends_at_s = min(ends_at_s, old.revoked_at_s)
    ended = replace(old, revoked_at_s=ends_at_s)
    _change(store, lambda keys: {**keys, old.key_id: ended, record.key_id: record})
    _print_new(record, text, json_output=json_output)


def revoke(reference: str, *, config_path: Path | None, json_output: bool) -> None:
    """End a key now.

    Raises:
        CliError: there is no such key.
    """
    _, store = _opened(config_path)
    now_s = time.time()
    key_id = _found(_read(store), reference).key_id

    def ended(keys: Keys) -> Keys:
        record = keys[key_id]
        before = record.revoked_at_s
        return {**keys, key_id: replace(record, revoked_at_s=now_s if before is None else min(before, now_s))}

    record = _change(store, ended)[key_id]
    print(json.dumps(_told(record)) if json_output else f"{shown(record)} of {record.tenant} is revoked")


def show(reference: str, *, config_path: Path | None, json_output: bool) -> None:
    """Print what is known of one key.

    Raises:
        CliError: there is no such key.
    """
    _, store = _opened(config_path)
    record = _found(_read(store), reference)
    if json_output:
        print(json.dumps(_told(record)))
    else:
        Console(width=_WIDTH).print(_table([record]))


def list_all(tenant: str | None, *, config_path: Path | None, json_output: bool) -> None:
    """Print all keys, or a tenant's; never the keys themselves.

    Raises:
        CliError: they cannot be read.
    """
    _, store = _opened(config_path)
    records = [key for key in _read(store).values() if tenant in (None, key.tenant)]
    records.sort(key=lambda key: (key.tenant, key.created_at_s))
    if json_output:
        print(json.dumps([_told(record) for record in records]))
    else:
        Console(width=_WIDTH).print(_table(records) if records else "no keys")


def usage(tenant: str | None, *, json_output: bool, url: str | None) -> None:
    """Print what tenants have used, by day and month.

    Raises:
        CliError: nothing runs, or the gateway refused.
    """
    query = "" if tenant is None else f"?{urlencode({'tenant': tenant})}"
    found = admin_get(f"/admin/usage{query}", url=url)
    if json_output:
        print(json.dumps(found))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("tenant", "window"):
        table.add_column(title)
    for title in (
        "requests",
        "cached",
        "refused",
        "prompt tokens",
        "output tokens",
        "USD",
        "measured J",
        "modelled J",
    ):
        table.add_column(title, justify="right")
    for row in found["usage"]:
        table.add_row(
            row["tenant"],
            row["start"],
            *(str(row[n]) for n in ("requests", "cached", "refused", "prompt_tokens", "output_tokens")),
            f"{row['cost_usd']:.4f}",
            f"{row['energy_measured_j']:.0f}",
            f"{row['energy_modelled_j']:.0f}",
        )
    Console(width=_WIDTH).print(table if found["usage"] else "nobody has used anything yet")


def note_without_keys(config: TidemillConfig, state_dir: Path) -> str | None:
    """What to say to somebody who starts a gateway that nobody has a key for."""
    if not config.tenants.enabled:
        return None
    try:
        if key_store(config.tenants.store, str(state_dir)).read():
            return None
    except KeysUnreadableError as error:
        return f"API keys: {error}"
    return "nobody has an API key yet; `tidemill keys create TENANT` makes one"


def _opened(config_path: Path | None) -> tuple[TidemillConfig, KeyStore]:
    """The configuration given, or that of the cluster that runs here, and its store of keys."""
    state_dir = state_dir_of(os.environ)
    if config_path is None:
        state = load_state(state_dir)
        if state is None:
            raise CliError("no Tidemill cluster runs here; name its configuration with --config")
        config_path = Path(state.config_path)
    config = read_config(config_path)
    return config, key_store(config.tenants.store, str(state_dir))


def _read(store: KeyStore) -> Keys:
    try:
        return store.read()
    except KeysUnreadableError as error:
        raise CliError(str(error)) from error


def _change(store: KeyStore, edit: Callable[[Keys], Keys]) -> Keys:
    try:
        return store.change(edit)
    except KeysUnreadableError as error:
        raise CliError(str(error)) from error


def _found(keys: Keys, reference: str) -> ApiKey:
    """A key by its id, or by as much of it as `list` shows."""
    key_id = reference.removeprefix("tm-").split("-", 1)[0]
    if key_id not in keys:
        # What was typed may be a whole key, so it is not repeated.
        raise CliError("no such key; `tidemill keys list` shows their ids")
    return keys[key_id]


def _state(record: ApiKey) -> str:
    now_s = time.time()
    if record.is_valid(now_s):
        return "valid" if record.revoked_at_s is None else "ending"
    revoked = record.revoked_at_s is not None and record.revoked_at_s <= now_s
    return "revoked" if revoked else "expired"


def _told(record: ApiKey) -> dict[str, Any]:
    return {
        "key_id": record.key_id,
        "prefix": shown(record),
        "tenant": record.tenant,
        "name": record.name,
        "state": _state(record),
        "created_at_s": record.created_at_s,
        "expires_at_s": record.expires_at_s,
        "revoked_at_s": record.revoked_at_s,
    }


def _print_new(record: ApiKey, text: str, *, json_output: bool) -> None:
    if json_output:
        print(json.dumps({**_told(record), "key": text}))
        return
    print(text)
    note = f"a key of {record.tenant}; it is shown this once, and works within a second"
    Console(stderr=True, highlight=False).print(note, style="dim")


def _table(records: list[ApiKey]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "key", "tenant", "name", "state", "made", "expires", "ended"):
        table.add_column(title)
    for record in records:
        ends = (record.created_at_s, record.expires_at_s, record.revoked_at_s)
        when = (
            "" if at_s is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s)) for at_s in ends
        )
        table.add_row(record.key_id, shown(record), record.tenant, record.name, _state(record), *when)
    return table
