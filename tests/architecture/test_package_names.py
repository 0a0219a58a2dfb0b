"""The top-level packages have everyday names; nothing else in the environment may answer to them."""

import importlib.metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "deployments", "operators", "load_tests")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_is_the_one_of_this_repository(package):
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin) == ROOT / package / "__init__.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_installs_a_package_of_that_name(package):
    owners = set(importlib.metadata.packages_distributions().get(package, []))
    assert owners <= {"tidemill"}, f"uninstall {owners - {'tidemill'}}: it would shadow {package}/"
