"""Serve's REST interface, as far as the provisioner needs it: what runs, and the external scaler."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
import ray
from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled
from ray.dashboard.utils import ray_address_to_api_server_url

from deployments.app import pool_application_name

_TIMEOUT_S = 10.0
_EXISTING = frozenset({"STARTING", "UPDATING", "RECOVERING", "RUNNING"})


class ServeApiError(RuntimeError):
    """Serve's REST interface is away or refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeReplica:
    """One replica that Serve starts or runs."""

    replica_id: str
    """Serve's; without the pool's name."""
    started_at_s: float | None = None
    """When Serve asked for it, Unix time; None if it has not yet."""
    placed: bool = True
    """Whether it has a node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServePool:
    """One pool as Serve sees it."""

    deployment: str
    replicas_wanted: int
    existing: tuple[ServeReplica, ...]
    """Replicas that are starting or running."""

    @property
    def unplaced_since_s(self) -> float | None:
        """Since when a replica waits for a node, Unix time; None if none does.

        Serve remembers it, so that a provisioner that is restarted need not.
        """
        waiting = [replica.started_at_s for replica in self.existing if not replica.placed]
        return min((at_s for at_s in waiting if at_s is not None), default=None)


class ServeApi:
    """Talks to the dashboard of the cluster that this process belongs to."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False)
        self._dashboard: str | None = None

    async def pools(self, names: list[str]) -> dict[str, ServePool]:
        """Pools by name; those that are not deployed are left out.

        Raises:
            ServeApiError: no answer, or not this one.
        """
        details = await self._call("GET", "/api/serve/applications/")
        applications = details.get("applications", {})
        found = {}
        for name in names:
            application = applications.get(pool_application_name(name))
            deployments = (application or {}).get("deployments") or {}
            for deployment, state in deployments.items():
                found[name] = _pool(deployment, state)
        return found

    async def scale(self, pool: str, deployment: str, replicas: int) -> None:
        """Tell Serve how many replicas a pool is to have.

        Raises:
            ServeApiError: it was not told.
        """
        path = f"/api/v1/applications/{pool_application_name(pool)}/deployments/{deployment}/scale"
        await self._call("POST", path, {"target_num_replicas": replicas})

    async def _address(self) -> str:
        if self._dashboard is None:
            gcs = ray.get_runtime_context().gcs_address
            try:
                self._dashboard = await asyncio.to_thread(ray_address_to_api_server_url, gcs)
            except (ValueError, ConnectionError, RuntimeError) as error:
                raise ServeApiError(f"the cluster's dashboard is not known: {error}") from error
        return str(self._dashboard)

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        address = await self._address()
        try:
            answer = await self._client.request(
                method, f"{address}{path}", json=body, headers=get_auth_headers_if_auth_enabled({})
            )
        except httpx.HTTPError as error:
            self._dashboard = None  # after a head failover it may be elsewhere
            raise ServeApiError(f"{method} {address}{path}: {type(error).__name__}: {error}") from error
        if answer.status_code != 200:
            raise ServeApiError(f"{method} {address}{path}: {answer.status_code} {answer.text[:200]}")
        parsed: dict[str, Any] = answer.json()
        return parsed


def _pool(deployment: str, state: dict[str, Any]) -> ServePool:
    existing = tuple(
        ServeReplica(
            replica_id=str(replica.get("replica_id")),
            started_at_s=replica.get("start_time_s") or None,
            placed=replica.get("state") != "STARTING" or bool(replica.get("node_id")),
        )
        for replica in state.get("replicas", ())
        if replica.get("state") in _EXISTING
    )
    wanted = state.get("target_num_replicas")
    return ServePool(
        deployment=deployment,
        replicas_wanted=len(existing) if wanted is None else int(wanted),
        existing=existing,
    )
