"""An overlay: how one cluster's manifests differ from a base, as kustomize patches.

Patches name what changes and nothing else, so that a person sees what makes an overlay. Building them gives
exactly the objects that the configuration renders to (a test builds every one).
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from operators.kubernetes.manifests import KUSTOMIZATION, text_of
from operators.kubernetes.names import Manifest

Identity = tuple[str, str, str]
"""API version, kind and name."""


def overlay(
    objects: Mapping[str, list[Manifest]], base: list[Manifest], *, base_path: str, origin: str
) -> dict[str, str]:
    """The files of an overlay folder.

    Args:
        objects: what the overlay must come to, by file name.
        base: the objects of the base.
        base_path: the base's folder, seen from the overlay's.
        origin: the configuration's name.
    """
    before = {identity(entry): entry for entry in base}
    after = {identity(entry): entry for entry in chain.from_iterable(objects.values())}
    files = {
        name: text_of(added, origin=origin)
        for name, entries in objects.items()
        if (added := [entry for entry in entries if identity(entry) not in before])
    }
    resources = [base_path, *files]
    patches: list[dict[str, Any]] = []
    for key in sorted(before.keys() & after.keys()):
        operations = list(_operations("", before[key], after[key]))
        if operations:
            path = f"patch-{key[1].lower()}-{key[2]}.yaml"
            files[path] = text_of([operations], origin=origin)
            patches.append({"path": path, "target": _target(key)})
    gone = [_deletion(before[key]) for key in before.keys() - after.keys()]
    if gone:
        files["removed.yaml"] = text_of(sorted(gone, key=identity), origin=origin)
        patches.append({"path": "removed.yaml"})
    kustomization: Manifest = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }
    if patches:
        kustomization["patches"] = sorted(patches, key=lambda patch: str(patch["path"]))
    return {KUSTOMIZATION: text_of([kustomization], origin=origin), **files}


def identity(entry: Manifest) -> Identity:
    """What an object is known by within one cluster."""
    return entry["apiVersion"], entry["kind"], entry["metadata"]["name"]


def _target(key: Identity) -> dict[str, str]:
    group, _, version = key[0].rpartition("/")
    return {**({"group": group} if group else {}), "version": version, "kind": key[1], "name": key[2]}


def _deletion(entry: Manifest) -> Manifest:
    metadata = {key: entry["metadata"][key] for key in ("name", "namespace") if key in entry["metadata"]}
    return {
        "$patch": "delete",
        "apiVersion": entry["apiVersion"],
        "kind": entry["kind"],
        "metadata": metadata,
    }


def _operations(path: str, before: Any, after: Any) -> Iterator[dict[str, Any]]:
    """JSON patch (RFC 6902) operations; lists are replaced whole, for their indices tell a reader nothing."""
    if before == after:
        return
    if not (isinstance(before, dict) and isinstance(after, dict)):
        yield {"op": "replace", "path": path, "value": after}
        return
    for key in before:
        pointer = f"{path}/{_escaped(key)}"
        if key in after:
            yield from _operations(pointer, before[key], after[key])
        else:
            yield {"op": "remove", "path": pointer}
    for key in after:
        if key not in before:
            yield {"op": "add", "path": f"{path}/{_escaped(key)}", "value": after[key]}


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
