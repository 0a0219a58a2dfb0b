"""What is committed about the configuration agrees with the code."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config import load_config
from cluster.config.base import Section

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def test_the_committed_schema_is_the_one_of_the_code():
    printed = subprocess.run(
        [sys.executable, "-m", "cluster.config"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    committed = (ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8")
    assert committed == printed, "run: python -m cluster.config > docs/config.schema.json"


def test_the_default_configuration_is_among_those_checked():
    assert ROOT / "configs" / "local.yaml" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_loads(path):
    assert load_config(path).pools


def sections(kind):
    for subclass in kind.__subclasses__():
        yield subclass
        yield from sections(subclass)


def is_section(annotation):
    """A section is explained by its own docstring."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


@pytest.mark.parametrize("section", sorted(sections(Section), key=str))
def test_every_field_is_documented(section):
    silent = {
        name
        for name, field in section.model_fields.items()
        if not field.description and name != "kind" and not is_section(field.annotation)
    }
    assert not silent, f"{section.__name__}: write a docstring under {silent}"
