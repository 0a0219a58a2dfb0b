"""Starts caches with near matches."""

import time
from types import SimpleNamespace

import pytest

from deployments.semantic_cache.service import CacheService
from deployments.semantic_cache.sqlite_documents import SqliteDocuments
from tests.shell.semantic_cache.asking import Asker


@pytest.fixture
async def start(tmp_path):
    started = []

    async def begin(config, documents=None):
        clock = SimpleNamespace(now_s=time.time())
        resting_max = config.semantic.disk_entries_max
        store = documents or SqliteDocuments(tmp_path / "near.sqlite", resting_max=resting_max)
        service = CacheService(config, now=time.monotonic, documents=store, wall_s=lambda: clock.now_s)
        await service.start()
        asker = Asker(service, clock)
        started.append(asker)
        return asker

    yield begin
    for asker in started:
        await asker.client.aclose()
        await asker.service.close()
