"""Gives the tests of the documents every document in turn."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


@pytest.fixture
def root():
    return ROOT


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request):
    """A document's path and text."""
    return request.param, request.param.read_text(encoding="utf-8")
