"""Lets models that many tests read be read from disk once."""

import functools

import pytest

from deployments.encoder import encoder
from deployments.semantic_cache import text_reader

_encoder = functools.cache(encoder.MiniLm)
_language = functools.cache(text_reader.LanguageDetector)


@pytest.fixture
def models_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoder and detector of languages keep nothing of what they read, so tests can share them."""
    monkeypatch.setattr(encoder, "MiniLm", _encoder)
    monkeypatch.setattr(text_reader, "LanguageDetector", _language)
