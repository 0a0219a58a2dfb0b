"""Gives the folder of a recipe's adapter, trained once and kept in the cache.

Training needs torch and a core for a while, so it happens in a process of its own, for several at a time.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from deployments.engine.adapter_recipes import recipe_names, recipe_of
from deployments.engine.weights import (
    PACKAGE_PREFIX,
    WeightsError,
    converted,
    locked,
    origin_of,
    run_module,
)

_FOLDER = "adapter-recipes"
_MODULE = "deployments.engine.adapter_recipes"
_TIMEOUT_S = 3600.0


def made_adapters(names: Iterable[str], cache_dir: Path, progress: Callable[[str], None]) -> dict[str, Path]:
    """The folders of recipes' adapters by name; those that are not there are trained.

    Raises:
        WeightsError: there is no such recipe, or training failed.
    """
    wanted = list(names)
    known = recipe_names()
    for name in wanted:
        if name not in known:
            raise WeightsError(f"recipe:{name}: no such recipe of an adapter; there are {', '.join(known)}")
    root = cache_dir / _FOLDER
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / "lock", progress):
            return _made(wanted, root, cache_dir, progress)
    except OSError as error:
        raise WeightsError(f"the cache {cache_dir} cannot be used: {error}; set TIDEMILL_CACHE") from error


def made_adapter(name: str) -> Path:
    """The folder of one, in the cache of this process's environment (for sources that say `recipe:NAME`).

    Raises:
        OSError: it cannot be had; the message says why.
    """
    from deployments.engine.weights import default_cache_dir

    try:
        return made_adapters([name], default_cache_dir(os.environ), lambda _: None)[name]
    except WeightsError as error:
        raise OSError(str(error)) from error


def _made(names: list[str], root: Path, cache_dir: Path, progress: Callable[[str], None]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    missing: dict[Path, list[str]] = {}
    for name in names:
        recipe = recipe_of(name)
        base = converted(recipe.base.removeprefix(PACKAGE_PREFIX), cache_dir, progress)
        origin = hashlib.sha256(f"{name} {recipe} {origin_of(base)}".encode()).hexdigest()
        folders[name] = root / f"{name}-{origin[:12]}"
        if not folders[name].is_dir():
            missing.setdefault(base, []).append(name)
    for base, several in missing.items():
        progress(f"training adapters (once): {', '.join(several)}")
        with tempfile.TemporaryDirectory(prefix=".training-", dir=root) as scratch:
            run_module(
                [_MODULE, str(base), scratch, *several],
                what=f"recipe:{several[0]}",
                limit_s=_TIMEOUT_S,
                progress=progress,
            )
            for name in several:
                (Path(scratch) / name).rename(folders[name])
    return folders
