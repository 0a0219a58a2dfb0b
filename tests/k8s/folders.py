"""The rendered folders as kubectl builds them, and KubeRay's own definitions where they are at hand."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "base": ROOT / "k8s" / "base",
    **{path.name: path for path in sorted((ROOT / "k8s" / "overlays").iterdir())},
}
CRDS_VARIABLE = "TIDEMILL_KUBERAY_CRDS"
KUBECTL = Path(sys.executable).parent / "kubectl"
"""The pinned one; another on PATH may be years old."""


@functools.cache
def built_objects(name):
    """The objects that `kubectl kustomize` makes of a folder."""
    done = subprocess.run(
        [KUBECTL, "kustomize", FOLDERS[name]], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def of_kind(objects, kind):
    return [entry for entry in objects if entry["kind"] == kind]


@functools.cache
def kuberay_definitions():
    """KubeRay's own CRDs, from the folder that the environment names."""
    place = os.environ.get(CRDS_VARIABLE)
    if not place:
        pytest.skip(
            f"{CRDS_VARIABLE} is not set: KubeRay's own CRDs (helm-chart/kuberay-operator/crds/ray.io_*.yaml "
            "of its release v1.7.0) are not part of this repository"
        )
    names = [f"ray.io_{name}.yaml" for name in ("rayclusters", "rayjobs", "rayservices")]
    return [yaml.load((Path(place) / name).read_bytes(), yaml.CSafeLoader) for name in names]
