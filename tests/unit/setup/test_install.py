"""The set-up's decisions: which variant, which commands, when there is nothing to do. No network, no pip."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"setup_{name}", ROOT / "requirements" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


install = _load("install")
lock = _load("lock")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with tiny lock files."""
    folder = tmp_path / "requirements"
    folder.mkdir()
    (folder / "cpu.txt").write_text("a==1 \\\n    --hash=sha256:00\nb==2 \\\n    --hash=sha256:01\n")
    (folder / "gpu.txt").write_text("a==1 \\\n    --hash=sha256:00\n")
    (folder / "models.txt").write_text("m==3 \\\n    --hash=sha256:02\n")
    return tmp_path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[list[str]]:
    """Every command that an installation runs, none of them really."""
    found: list[list[str]] = []

    def record(command, _log) -> bool:
        found.append(list(command))
        return True

    def create(folder: Path, **_: object) -> None:
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").write_text("")

    lists = install.lock_files
    stamp = install.stamp_text
    monkeypatch.setattr(install, "run_logged", record)
    monkeypatch.setattr(install, "lock_files", lambda variant, _root=root: lists(variant, root))
    monkeypatch.setattr(install, "stamp_text", lambda variant: stamp(variant, root))
    monkeypatch.setattr(install, "repair", lambda *_: None)
    monkeypatch.setattr(install.venv, "create", create)
    return found


def test_old_python_and_other_systems_get_one_clear_line() -> None:
    with pytest.raises(install.SetupError, match=r"Python 3\.10 is too old"):
        install.check_platform((3, 10), "Linux", "x86_64")
    with pytest.raises(install.SetupError, match="Darwin on arm64 is not supported"):
        install.check_platform((3, 12), "Darwin", "arm64")
    install.check_platform((3, 11), "Linux", "x86_64")


@pytest.mark.parametrize(
    ("returncode", "output", "variant"),
    [
        (0, "GPU 0: NVIDIA H100 (UUID: GPU-1)\n", "gpu"),
        (9, "NVIDIA-SMI has failed", "cpu"),
        (0, "", "cpu"),
    ],
)
def test_variant_follows_the_driver(
    monkeypatch: pytest.MonkeyPatch, returncode: int, output: str, variant: str
) -> None:
    answer = subprocess.CompletedProcess([], returncode, stdout=output)
    monkeypatch.setattr(install.shutil, "which", lambda _: "/bin/nvidia-smi")
    monkeypatch.setattr(install.subprocess, "run", lambda *_, **__: answer)
    assert install.detect_variant() == variant


def test_without_a_driver_the_variant_is_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.shutil, "which", lambda _: None)
    assert install.detect_variant() == "cpu"


def test_torch_comes_from_the_configured_sources_first_and_then_from_pytorch(root: Path) -> None:
    torch = install.steps("cpu", "py", root)[1]
    assert install.TORCH_CPU in torch.command
    assert "--index-url" not in torch.command
    assert torch.fallback[-2:] == ("--index-url", install.TORCH_CPU_INDEX)


def test_lists_are_installed_with_hashes_and_without_dependencies(root: Path) -> None:
    for variant in install.VARIANTS:
        lists = [step.command for step in install.steps(variant, "py", root) if "-r" in step.command]
        assert [Path(command[-1]).name for command in lists] == [f"{variant}.txt", "models.txt"]
        assert all({"--no-deps", "--require-hashes"} <= set(command) for command in lists)


def test_the_gpu_variant_takes_no_cpu_torch(root: Path) -> None:
    assert not any(install.TORCH_CPU in step.command for step in install.steps("gpu", "py", root))


def test_second_run_does_nothing(root: Path, commands: list[list[str]]) -> None:
    install.install(root / ".venv", "cpu")
    assert commands
    commands.clear()
    install.install(root / ".venv", "cpu")
    assert commands == []


def test_a_changed_list_is_installed(root: Path, commands: list[list[str]]) -> None:
    install.install(root / ".venv", "cpu")
    commands.clear()
    (root / "requirements" / "models.txt").write_text("m==4 \\\n    --hash=sha256:03\n")
    install.install(root / ".venv", "cpu")
    assert commands


@pytest.mark.usefixtures("commands")
def test_interrupted_installation_leaves_no_stamp(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install.install(root / ".venv", "cpu")
    (root / "requirements" / "models.txt").write_text("m==4 \\\n    --hash=sha256:03\n")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "run_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        install.install(root / ".venv", "cpu")
    assert install.read_stamp(root / ".venv") == ""


@pytest.mark.usefixtures("commands")
def test_another_variant_starts_from_an_empty_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install.install(root / ".venv", "cpu")
    cleared: list[bool] = []
    monkeypatch.setattr(install.venv, "create", lambda _, clear, **__: cleared.append(clear))
    install.make_environment(root / ".venv", "gpu")
    assert cleared == [True]


def test_failure_shows_the_end_of_pips_output_and_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_command, log: Path) -> bool:
        log.write_text("".join(f"line {number}\n" for number in range(100)))
        return False

    monkeypatch.setattr(install, "run_logged", fail)
    step = install.Step("installing x", ("pip",), fallback=("pip", "again"), remedy="do this")
    with pytest.raises(install.SetupError) as caught:
        install.run_step(step, tmp_path / "log", install.Progress())
    lines = str(caught.value).splitlines()
    assert "line 99" in lines
    assert "line 79" not in lines
    assert "do this" in lines[-1]


def test_damaged_packages_are_found_and_their_entries_picked_out(root: Path) -> None:
    wanted = {"pytest": pytest.__version__, "no-such-package-here": "1"}
    assert install.damaged(wanted) == ["no-such-package-here"]
    assert install.damaged({"pytest": "0.0.1"}) == ["pytest"]
    assert install.subset(root / "requirements" / "cpu.txt", ["b"]) == "b==2 \\\n    --hash=sha256:01\n"


def test_launcher_is_both_shell_and_python() -> None:
    compile(install.LAUNCHER, "tidemill", "exec")
    assert install.LAUNCHER.startswith("#!/bin/sh\n'''exec'")


def test_cpu_list_leaves_torch_to_the_installer() -> None:
    text = "six==1 \\\n    --hash=sha256:00\ntorch==2+cpu \\\n    --hash=sha256:01\nyarl==3\n"
    assert lock.without_torch(text) == "six==1 \\\n    --hash=sha256:00\nyarl==3\n"


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt", "models.txt"])
def test_lists_are_pinned_hashed_and_free_of_addresses(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert text.count("--hash=sha256:") >= len(install.pinned(ROOT / "requirements" / name)) > 0


def test_cpu_list_lacks_what_breaks_or_bloats_a_cpu_machine() -> None:
    names = install.pinned(ROOT / "requirements" / "cpu.txt")
    assert not {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "nixl-cu13"} & set(names)
