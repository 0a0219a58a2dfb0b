"""`tidemill render`: writes Kubernetes manifests, or says whether those that are there are up to date."""

import json
import os
from pathlib import Path

import yaml

from cluster.config import ConfigError, load_config
from operators.cli.console import CliError
from operators.kubernetes.images import locked_versions
from operators.kubernetes.manifests import KUSTOMIZATION, manifests, rendered
from operators.kubernetes.names import Manifest
from operators.kubernetes.overlay import overlay

_ROOT = Path(__file__).resolve().parents[2]


def render(config: Path, folder: Path, *, base: Path | None, check: bool, json_output: bool) -> int:
    """Write the manifests of a configuration.

    Args:
        config: the configuration's file.
        folder: where they belong; files of an earlier rendering that are not needed any more are removed.
        base: a rendered folder; then only what differs from it is written, as an overlay.
        check: write nothing, and say what would change.
        json_output: print JSON.

    Returns:
        0; with `check`, 1 if anything would change.
    """
    wanted = _wanted(config, folder, base)
    stale = {name for name, text in wanted.items() if _text_at(folder / name) != text}
    left_over = {path.name for path in folder.glob("*.yaml")} - wanted.keys()
    if not check:
        _replace(folder, wanted, left_over)
    changes = sorted(stale | left_over)
    if json_output:
        print(json.dumps({"folder": str(folder), "files": sorted(wanted), "changed": changes}))
    elif not changes:
        print(f"{folder}: up to date ({len(wanted)} files)")
    elif check:
        print(f"{folder}: differs from {config} in {', '.join(changes)}; render it again")
    else:
        print(f"{folder}: {len(wanted)} files, changed: {', '.join(changes)}")
    return 1 if check and changes else 0


def _wanted(config: Path, folder: Path, base: Path | None) -> dict[str, str]:
    try:
        objects = manifests(load_config(config), locked_versions(_ROOT))
    except ConfigError as error:
        raise CliError(str(error), exit_code=2) from error
    except (OSError, ValueError) as error:
        raise CliError(f"the lists of packages cannot be read: {error}") from error
    if base is None:
        return rendered(objects, origin=config.name)
    between = Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
    return overlay(objects, _objects_in(base), base_path=between, origin=config.name)


def _objects_in(base: Path) -> list[Manifest]:
    """The objects of a rendered folder."""
    try:
        kustomization = yaml.safe_load((base / KUSTOMIZATION).read_text(encoding="utf-8"))
        texts = [(base / name).read_text(encoding="utf-8") for name in kustomization["resources"]]
        return [entry for text in texts for entry in yaml.safe_load_all(text)]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise CliError(f"{base}: no rendered folder to build upon ({error})", exit_code=2) from error


def _text_at(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _replace(folder: Path, wanted: dict[str, str], left_over: set[str]) -> None:
    """Only a folder that is empty or was rendered before is written to."""
    known = _text_at(folder / KUSTOMIZATION)
    if left_over and (known is None or not known.startswith("# Rendered by `tidemill render`")):
        raise CliError(f"{folder}: holds YAML files of another origin; name an empty folder", exit_code=2)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in wanted.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name in left_over:
            (folder / name).unlink()
    except OSError as error:
        raise CliError(f"{folder}: cannot be written to: {error}") from error
