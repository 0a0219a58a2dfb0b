"""The file from which a Prometheus on this machine learns what to scrape, kept up by `tidemill up`.

Ray writes such a file of its own for its nodes; it is taken over here, so that one file names everything.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from cluster.config import TidemillConfig

FOLDER = "prometheus"
"""In the state folder."""
TARGETS_FILE = "targets.json"
_RAY_DISCOVERY = "prom_metrics_service_discovery.json"
_PERIOD_S = 5.0
_TIMEOUT_S = 2.0
_HOST = "127.0.0.1"


class TargetsFile:
    """The file and what it is made from."""

    def __init__(
        self,
        config: TidemillConfig,
        *,
        base_url: str,
        admin_key: str,
        state_dir: Path,
        runtime_dir: Path,
        now_s: Callable[[], float],
    ) -> None:
        """Write nothing yet.

        Args:
            config: of the cluster.
            base_url: the gateway's.
            admin_key: for `/admin/targets`.
            state_dir: where the file goes.
            runtime_dir: where Ray's file is.
            now_s: any clock.
        """
        self._config = config
        self._url = f"{base_url}/admin/targets"
        self._headers = {"authorization": f"Bearer {admin_key}"}
        self._ray = runtime_dir / "ray" / _RAY_DISCOVERY
        self._now_s = now_s
        self._due_at_s = 0.0
        self._written = ""
        self.path = state_dir / FOLDER / TARGETS_FILE

    def refresh(self) -> None:
        """Write it anew if it is time and something changed; a gateway that is away changes nothing."""
        if self._now_s() < self._due_at_s:
            return
        self._due_at_s = self._now_s() + _PERIOD_S
        try:
            groups = self._groups()
            text = json.dumps(groups, indent=1)
            if text != self._written:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                scratch = self.path.with_suffix(".new")
                scratch.write_text(text, encoding="utf-8")
                scratch.replace(self.path)
                self._written = text
        except (OSError, httpx.HTTPError, ValueError):
            return  # the next time is soon

    def _groups(self) -> list[dict[str, Any]]:
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
            answer = client.get(self._url, headers=self._headers)
        answer.raise_for_status()
        groups: list[dict[str, Any]] = answer.json()
        local = self._config.local_cluster
        if local.haproxy:
            address = f"{_HOST}:{local.haproxy_metrics_port}"
            groups.append({"targets": [address], "labels": {"job": "haproxy"}})
        return [*groups, *ray_groups(self._ray)]


def ray_groups(path: Path) -> list[dict[str, Any]]:
    """What Ray itself says of its nodes; nothing if it has not said it yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    addresses = sorted(target for group in found for target in group.get("targets", ()))
    return [{"targets": addresses, "labels": {"job": "ray"}}] if addresses else []
