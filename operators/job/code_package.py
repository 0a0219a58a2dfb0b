"""The code that replicas and operators run, as a folder of its own whose content names it.

A job's working directory also holds configurations, documents and tests. If replicas ran from it, every
changed file would be another version of all of them.
"""

import hashlib
import shutil
from pathlib import Path

from operators.local_cluster.cluster import SOURCE_ROOT

_PACKAGES = ("cluster", "deployments", "operators")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


def copy_code(folder: Path, root: Path = SOURCE_ROOT) -> str:
    """Copy the packages into a folder, in place of what is there; the hash of names and contents."""
    shutil.rmtree(folder, ignore_errors=True)
    for package in _PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=_LEFT_OUT)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
