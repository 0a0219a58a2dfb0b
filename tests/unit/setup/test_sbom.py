"""The bill of materials: everything that is locked, with hashes and a licence."""

import json
from email.message import Message
from pathlib import Path

import pytest

from requirements import sbom

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("variant", sbom.VARIANTS)
def test_no_locked_package_is_without_a_licence(variant):
    found = sbom.packages(variant)
    assert len(found) > 150
    assert [package.name for package in found if not package.licence] == []
    assert [p.name for p in found if not p.sha256] == (["torch"] if variant == "cpu" else [])


def test_the_page_of_licences_is_the_one_of_the_locks():
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    assert page == sbom.licence_page(), "run: python -m requirements.sbom --licences > docs/licences.md"


def test_the_list_of_licences_names_nothing_that_is_not_locked():
    locked = {package.name for variant in sbom.VARIANTS for package in sbom.packages(variant)}
    assert json.loads(sbom.LICENCES.read_text()).keys() <= locked


def test_licences_of_what_is_installed_are_the_listed_ones():
    listed = json.loads(sbom.LICENCES.read_text())
    for name in ("aiohttp", "ray", "pydantic", "numpy", "redis"):
        assert sbom.installed_licence(name) == listed[name], name
    assert sbom.installed_licence("no-such-package") == ""


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License-Expression": "MIT OR Apache-2.0", "License": "x"}, "MIT OR Apache-2.0"),
        ({"License": "Apache License 2.0"}, "Apache-2.0"),
        (
            {"License": "BSD-2-Clause", "Classifier": ["License :: OSI Approved :: BSD License"]},
            "BSD-2-Clause",
        ),
        ({"License": "A long text " * 20, "Classifier": ["License :: OSI Approved :: MIT License"]}, "MIT"),
        ({"License": "UNKNOWN", "Classifier": ["License :: OSI Approved"]}, ""),
        ({}, ""),
    ],
)
def test_declared_licences_are_read_in_all_their_forms(fields, licence):
    metadata = Message()
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            metadata[name] = value
    package = type("Package", (), {"metadata": metadata})()
    assert sbom.declared_licence(package) == licence


def test_the_bill_is_cyclonedx(capsys):
    assert sbom.main([]) == 0
    bill = json.loads(capsys.readouterr().out)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    references = [component["bom-ref"] for component in bill["components"]]
    assert len(set(references)) == len(references) == len(bill["dependencies"][0]["dependsOn"])
    aiohttp = next(component for component in bill["components"] if component["name"] == "aiohttp")
    assert aiohttp["purl"].startswith("pkg:pypi/aiohttp@3.")
    assert aiohttp["licenses"] == [{"expression": "Apache-2.0 AND MIT"}]
    assert all(len(entry["content"]) == 64 for entry in aiohttp["hashes"])
    for component in bill["components"]:
        for licence in component["licenses"]:
            assert licence.keys() in ({"expression"}, {"license"})
