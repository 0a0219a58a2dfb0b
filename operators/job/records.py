"""Which version of each part runs, kept in Ray's key-value store: it lives exactly as long as the cluster."""

import json

from ray.experimental import internal_kv

_KEY = b"parts"
_NAMESPACE = b"tidemill"


def read_versions() -> dict[str, str]:
    """By part; empty if nothing was deployed."""
    found = internal_kv._internal_kv_get(_KEY, namespace=_NAMESPACE)  # noqa: SLF001 - Ray has no public store
    versions: dict[str, str] = json.loads(found) if found else {}
    return versions


def write_versions(versions: dict[str, str]) -> None:
    """Replace what is noted."""
    content = json.dumps(versions).encode()
    internal_kv._internal_kv_put(_KEY, content, overwrite=True, namespace=_NAMESPACE)  # noqa: SLF001 - as above


def forget_versions() -> None:
    """Note that nothing is deployed."""
    internal_kv._internal_kv_del(_KEY, namespace=_NAMESPACE)  # noqa: SLF001 - as above
