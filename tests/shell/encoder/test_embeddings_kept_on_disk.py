"""Embeddings for benchmarks: the encoder's own vectors, each computed once, bounded on disk."""

import functools

import numpy as np
import pytest

from deployments.encoder import minilm
from load_tests import embeddings
from load_tests.embeddings import default_cache, embed
from load_tests.text_files import FileError

MINILM = functools.cache(minilm.MiniLm)
TEXTS = ["How do I reset my password?", "Prove that there are infinitely many primes."]


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    monkeypatch.setattr(embeddings, "MiniLm", MINILM)


@pytest.fixture
def encoded(monkeypatch):
    """The texts that the encoder was asked for."""
    asked = []
    encode = minilm.MiniLm.encode

    def counting(self, texts):
        asked.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(minilm.MiniLm, "encode", counting)
    return asked


def quiet(_line):
    pass


def test_rows_are_the_encoders_own_vectors_in_the_order_of_the_texts(tmp_path):
    rows = embed(TEXTS, tmp_path / "kept.sqlite", quiet)
    model = MINILM(threads=1)
    assert rows.shape == (2, 384)
    assert rows.dtype == np.float32
    for row, text in zip(rows, TEXTS, strict=True):
        assert np.array_equal(row, model.encode([text]).vectors[0])


def test_each_text_is_computed_once_over_all_runs(tmp_path, encoded):
    path = tmp_path / "below" / "kept.sqlite"
    first = embed([TEXTS[0], TEXTS[1], TEXTS[0]], path, quiet)
    assert encoded == TEXTS
    again = embed([TEXTS[1], TEXTS[0]], path, quiet)
    assert len(encoded) == 2
    assert np.array_equal(again, first[[1, 0]])


def test_no_text_needs_no_encoder(tmp_path, encoded):
    assert embed([], tmp_path / "kept.sqlite", quiet).shape == (0, 384)
    assert not encoded


def test_the_oldest_vectors_go_first(tmp_path, encoded, monkeypatch):
    monkeypatch.setattr(embeddings, "TEXTS_KEPT_MAX", 2)
    path = tmp_path / "kept.sqlite"
    for text in ("one", "two", "three"):
        embed([text], path, quiet)
    embed(["two", "three", "one"], path, quiet)
    assert encoded == ["one", "two", "three", "one"]


def test_progress_names_what_is_computed_and_what_is_known(tmp_path):
    lines = []
    embed(["one"], tmp_path / "kept.sqlite", lines.append)
    embed(["one", "two"], tmp_path / "kept.sqlite", lines.append)
    assert [line.split(" from ")[0] for line in lines] == [
        "embedding 1 texts, 0 known",
        "embedding 1 texts, 1 known",
    ]


def test_the_default_is_in_the_users_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache().parent == tmp_path / "tidemill"


def test_a_file_that_holds_something_else_is_named_and_left_alone(tmp_path):
    (tmp_path / "notes").write_text("not a database, " * 100)
    with pytest.raises(FileError, match=r"notes: holds no embeddings"):
        embed(TEXTS, tmp_path / "notes")
    assert (tmp_path / "notes").read_text().startswith("not a database")
    with pytest.raises(FileError, match=r"notes/below: (Not a directory|File exists)"):
        embed(TEXTS, tmp_path / "notes" / "below")
