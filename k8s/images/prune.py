"""Prints the development tools of a lock that nothing else needs: what an image can do without.

The lists in requirements/ hold everything that a checkout needs, tests included. Some of their packages
(`openai`, for instance) are also dependencies of vLLM, so the group alone does not say what may go.
Used by the Dockerfiles: `python k8s/images/prune.py | xargs pip uninstall -y`.
"""

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_EXTRA = re.compile(r"""extra\s*==\s*['"]""")


def name_of(requirement: str) -> str:
    """The normalised name of a package in a requirement."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement.strip())
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def installed_requirements() -> dict[str, set[str]]:
    """What every installed package requires, extras left out."""
    return {
        name_of(package.metadata["Name"]): {
            name_of(entry) for entry in package.requires or [] if not _EXTRA.search(entry)
        }
        for package in importlib.metadata.distributions()
    }


def unneeded(project: dict[str, object], variant: str, requirements: dict[str, set[str]]) -> list[str]:
    """Installed packages that only development tools need.

    Args:
        project: the content of pyproject.toml.
        variant: `cpu` or `gpu`.
        requirements: installed packages and what they require.
    """
    table = project["project"]
    groups = project["dependency-groups"]
    assert isinstance(table, dict)  # noqa: S101 - the form of the file
    assert isinstance(groups, dict)  # noqa: S101
    needed = closure(
        [name_of(entry) for entry in (*table["dependencies"], *table["optional-dependencies"][variant])],
        requirements,
    )
    tools = closure([name_of(entry) for entry in groups["dev"]], requirements)
    return sorted((tools - needed) & requirements.keys() - {"pip", "setuptools"})


def closure(names: Iterable[str], requirements: dict[str, set[str]]) -> set[str]:
    """The packages and all that they require, directly or not."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(requirements.get(name, ()))
    return found


def main() -> None:
    """Print the names, one a line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    print("\n".join(unneeded(project, sys.argv[1], installed_requirements())))


if __name__ == "__main__":
    main()
