"""Starts caches with near matches, and servers that they need."""

import shutil
import socket
import subprocess
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


@pytest.fixture
def redis_url(tmp_path):
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait()
