"""The semantic-cache deployment: `CacheService` on a port of its own, announced in the directory."""

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

from ray import serve

from cluster.config import TidemillConfig
from cluster.config.semantic_cache import SemanticTierConfig
from deployments.directory.actor import DirectoryClient
from deployments.http_port import HttpPort, own_host
from deployments.messages import SEMANTIC_CACHE, ServiceReport
from deployments.semantic_cache.documents import Documents
from deployments.semantic_cache.redis_documents import RedisDocuments
from deployments.semantic_cache.service import NOTED_IN_TRACES, CacheService
from deployments.semantic_cache.sqlite_documents import SqliteDocuments
from deployments.tracing import TracedApp, tracing_of

_FILE = "semantic-cache/near.sqlite"


def documents_for(config: SemanticTierConfig, state_dir: Path) -> Documents:
    """Where near matches survive a restart, as configured. Nothing is opened yet."""
    match config.documents.kind:
        case "redis":
            password_env = config.documents.redis_password_env
            password = os.environ.get(password_env) if password_env else None
            return RedisDocuments(config.documents.redis_url, password=password)
        case "sqlite":
            return SqliteDocuments(state_dir / _FILE, resting_max=config.disk_entries_max)
        case "memory":
            return SqliteDocuments(None)


@serve.deployment
class SemanticCache:
    """One cache replica. Routers find it through the directory."""

    async def __init__(self, config: TidemillConfig, state_dir: str) -> None:  # type: ignore[misc]  # Serve awaits it
        """Load the encoder and open the port."""
        self._id = f"semantic-cache-{serve.get_replica_context().replica_id.unique_id}"
        self._service = CacheService(
            config.semantic_cache,
            time.monotonic,
            body_bytes_max=config.gateway.body_bytes_max,
            reads_texts=config.reads_texts,
            documents=documents_for(config.semantic_cache.semantic, Path(state_dir)),
        )
        await self._service.start()
        self._tracing = tracing_of(config.tracing, service="tidemill-semantic-cache", instance=self._id)
        app: Any = self._service.app
        if config.tracing.endpoint:
            app = TracedApp(app, self._tracing, noted=NOTED_IN_TRACES)
        self._http = HttpPort(app, host=own_host())
        await self._http.start()
        self._directory = DirectoryClient()
        self._reports: asyncio.Task[Any] = asyncio.create_task(
            self._directory.keep_reporting("report_service", self._report)
        )

    async def _report(self) -> ServiceReport:
        return ServiceReport(
            service=SEMANTIC_CACHE, replica_id=self._id, url=self._http.url, observed_at_s=time.time()
        )

    async def __del__(self) -> None:
        """Leave the directory, let open look-ups finish, close."""
        self._reports.cancel()
        with contextlib.suppress(Exception):
            await self._directory.call("leave", self._id)
        await self._http.stop(grace_s=5.0)
        await self._service.close()
        await self._tracing.close()
