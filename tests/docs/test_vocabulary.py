"""Glossary, metrics and layers are complete: what the code names, the documents explain, and nothing else."""

import re
import tomllib

import pytest

from cluster.entities.pool import ReplicaPhase, Role
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path
from cluster.entities.workload import Surface
from cluster.metrics import CATALOGUE
from docs.generate_metrics import metrics_page


def rows(text):
    """The cells of every table row but heads and rules."""
    found = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]
    return [row for row in found if row[0].startswith("`")]


def section(text, heading):
    found = re.search(rf"^### {heading}\n(.*?)(?=^#|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""


@pytest.mark.parametrize("kind", [Role, ReplicaPhase, Path, Surface, Reason], ids=lambda kind: kind.__name__)
def test_every_member_of_a_closed_set_is_explained(kind, root):
    glossary = (root / "docs" / "glossary.md").read_text(encoding="utf-8")
    explained = {row[0].strip("`"): row[1] for row in rows(section(glossary, kind.__name__))}
    assert list(explained) == [member.value for member in kind]
    assert all(explained.values())


@pytest.mark.parametrize("word", ["TTFT", "TPOT", "ITL", "goodput", "KV ticket", "pool", "replica", "fleet"])
def test_the_main_words_are_defined(word, root):
    glossary = (root / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| {word} \| \S", glossary, flags=re.MULTILINE)


def test_the_table_of_metrics_is_the_catalogue(root):
    page = (root / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == metrics_page(page), "run: python -m docs.generate_metrics"
    documented = [row for row in rows(page) if len(row) == 6 and row[0].startswith("`tidemill_")]
    assert [(row[0], row[1], row[5]) for row in documented] == [
        (f"`{metric.name}`", metric.kind, metric.help) for metric in CATALOGUE
    ]
    assert all(unit and dashboard for _, _, unit, _, dashboard, _ in documented)


def test_every_label_is_explained(root):
    page = (root / "docs" / "metrics.md").read_text(encoding="utf-8")
    _, _, labels = page.partition("## Labels")
    for label in {label for metric in CATALOGUE for label in metric.labels}:
        assert re.search(rf"^\|.*`{label}`.*\|", labels, flags=re.MULTILINE), label


def test_metrics_that_are_named_anywhere_exist(document):
    _, text = document
    named = set(re.findall(r"`(tidemill_[a-z_]+[a-z])`", text))
    assert named <= {metric.name for metric in CATALOGUE}


def test_every_layer_contract_is_in_the_architecture(root):
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert contracts
    assert not [contract["name"] for contract in contracts if f"**{contract['name']}**" not in page]


def test_every_package_is_in_the_architecture(root):
    page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = [
        f"{top}.{entry.name}"
        for top in ("cluster", "deployments", "operators")
        for entry in sorted((root / top).iterdir())
        if (entry / "__init__.py").is_file()
    ]
    assert not [name for name in packages if f"`{name}`" not in page]
