"""API keys: how they are made, recognised and kept.

A key holds 256 bits from the operating system, so nobody can guess it or try words against its hash: one
SHA-256 protects it as well as a slow password hash would, at a microsecond for each request instead of tens
of milliseconds. What is kept cannot be turned back into a key; a key is shown once, when it is made.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import orjson

from cluster.entities.tenancy import ApiKey

_MARK = "tm"
_ID_BYTES = 6
_SECRET_BYTES = 32
_NOBODY = hashlib.sha256(b"no key has this hash").hexdigest()

Keys = dict[str, ApiKey]
"""By key id."""


class KeysUnreadableError(Exception):
    """The keys cannot be read or written; the message holds none of them."""


def new_key(tenant: str, *, name: str, now_s: float, expires_at_s: float | None) -> tuple[ApiKey, str]:
    """A record, and the key that is shown once."""
    key_id = secrets.token_hex(_ID_BYTES)
    text = f"{_MARK}-{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    record = ApiKey(
        key_id=key_id,
        tenant=tenant,
        sha256=_hash(text),
        name=name,
        created_at_s=now_s,
        expires_at_s=expires_at_s,
    )
    return record, text


def shown(record: ApiKey) -> str:
    """As much of a key as may be seen: enough to tell it from others."""
    return f"{_MARK}-{record.key_id}-…"


def recognise(text: str, keys: Keys) -> ApiKey | None:
    """The record that a key belongs to, valid or not; None for what is no key of ours.

    Takes as long for a wrong key as for a right one.
    """
    parts = text.split("-", 2)
    found = keys.get(parts[1]) if len(parts) == 3 else None
    same = hmac.compare_digest(_hash(text), _NOBODY if found is None else found.sha256)
    return found if same else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class KeyStore(Protocol):
    """Where keys are kept. Blocks: callers with an event loop ask in a thread."""

    def version(self) -> object:
        """Something that changes with every change."""

    def read(self) -> Keys:
        """All keys, revoked ones included.

        Raises:
            KeysUnreadableError: they are damaged or away.
        """

    def change(self, edit: Callable[[Keys], Keys]) -> Keys:
        """Change them as a whole; nobody else changes them meanwhile.

        Raises:
            KeysUnreadableError: as for `read`.
        """


class FileKeys:
    """One JSON file that only its owner may read, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def version(self) -> object:
        """See `KeyStore`."""
        with contextlib.suppress(OSError):
            found = self._path.stat()
            return found.st_mtime_ns, found.st_ino, found.st_size
        return None

    def read(self) -> Keys:
        """See `KeyStore`."""
        try:
            content = json.loads(self._path.read_bytes())
            return {entry["key_id"]: ApiKey(**entry) for entry in content["keys"]}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise KeysUnreadableError(f"{self._path} cannot be read ({type(error).__name__})") from None

    def change(self, edit: Callable[[Keys], Keys]) -> Keys:
        """See `KeyStore`."""
        try:
            with self._alone():
                keys = edit(self.read())
                self._write(keys)
                return keys
        except OSError as error:
            raise KeysUnreadableError(f"{self._path} cannot be written: {error.strerror}") from None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, keys: Keys) -> None:
        scratch = self._path.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps({"keys": [asdict(key) for key in keys.values()]}))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self._path)
