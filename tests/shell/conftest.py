"""Lets models that many tests read be read from disk once, and starts the server that they share."""

import functools
from collections.abc import Iterator

import pytest
import redis

from deployments.encoder import encoder
from deployments.semantic_cache import text_reader
from tests.shell.redis_server import free_port, redis_on

_encoder = functools.cache(encoder.MiniLm)
_language = functools.cache(text_reader.LanguageDetector)


@pytest.fixture
def models_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoder and detector of languages keep nothing of what they read, so tests can share them."""
    monkeypatch.setattr(encoder, "MiniLm", _encoder)
    monkeypatch.setattr(text_reader, "LanguageDetector", _language)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server for all tests of a session; `redis_url` hands it out empty."""
    with redis_on(free_port(), tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty server."""
    with redis.Redis.from_url(redis_server) as admin:
        admin.flushall()
    return redis_server
