"""Sets up `.venv`: one command from a fresh clone to a working `tidemill`.

It exists because a plain `pip install .` cannot say what a CPU machine needs: PyTorch's CPU build comes from
another index, and some of vLLM's declared dependencies must stay away (requirements/README.md). It runs with
the standard library alone, because nothing else is there yet.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".tidemill-lock"
VARIANTS = ("cpu", "gpu")
TORCH_CPU = "torch==2.13.0+cpu"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LOG_LINES_SHOWN = 20
LAUNCHER = """#!/bin/sh
'''exec' "$(dirname "$(readlink -f "$0")")/python" "$0" "$@"
' '''
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])
from operators.cli.app import main

main()
"""


class SetupError(Exception):
    """The set-up cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Step:
    """One command of the installation, with another to try where the first one fails."""

    title: str
    command: tuple[str, ...]
    fallback: tuple[str, ...] | None = None
    remedy: str = "check the network and the free disk space, then run the same command again"


def check_platform(version: tuple[int, int], system: str, machine: str) -> None:
    """Raise SetupError where the pinned packages do not exist."""
    if version < (3, 11):
        found = ".".join(map(str, version))
        raise SetupError(f"Python {found} is too old; install Python 3.11 or later (or set PYTHON=…)")
    if (system, machine) != ("Linux", "x86_64"):
        raise SetupError(f"{system} on {machine} is not supported; Linux on x86_64 is needed")


def detect_variant() -> str:
    """`gpu` where NVIDIA's driver answers and lists a device, else `cpu`."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "cpu"
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "gpu" if done.returncode == 0 and "GPU" in done.stdout else "cpu"


def lock_files(variant: str, root: Path = ROOT) -> list[Path]:
    """The pinned lists that a variant consists of, in order of installation."""
    return [root / "requirements" / f"{variant}.txt", root / "requirements" / "models.txt"]


def stamp_text(variant: str, root: Path = ROOT) -> str:
    """What the stamp must say for the environment to be up to date."""
    digest = hashlib.sha256(f"{TORCH_CPU if variant == 'cpu' else ''}\0{LAUNCHER}".encode())
    for path in lock_files(variant, root):
        digest.update(path.read_bytes())
    return f"{variant} {digest.hexdigest()}\n"


def read_stamp(folder: Path) -> str:
    """The stamp of an environment; empty if its installation never finished."""
    try:
        return (folder / STAMP).read_text(encoding="utf-8")
    except OSError:
        return ""


def steps(variant: str, python: str, root: Path = ROOT) -> list[Step]:
    """The commands that fill the environment whose interpreter is given."""
    pip = (python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
    found = [Step("bringing pip up to date", (*pip, "pip>=25.1"))]
    if variant == "cpu":
        torch = (*pip, "--no-deps", TORCH_CPU)
        found.append(
            Step(
                "installing PyTorch (CPU build, about 200 MB)",
                torch,
                fallback=(*torch, "--index-url", TORCH_CPU_INDEX),
                remedy=f"{TORCH_CPU} must come from a configured source or from {TORCH_CPU_INDEX}",
            )
        )
    for path in lock_files(variant, root):
        count = len(pinned(path))
        title = f"installing {count} pinned packages ({path.name})"
        found.append(Step(title, (*pip, "--no-deps", "--require-hashes", "-r", str(path))))
    return found


def pinned(path: Path) -> dict[str, str]:
    """Versions by name in a lock file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def damaged(wanted: dict[str, str]) -> list[str]:
    """Packages of the running interpreter that are missing or lost files (an interrupted installation)."""
    found = []
    for name, version in wanted.items():
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(name)
            continue
        files = package.files
        kept = files is not None and all(
            Path(str(file.locate())).exists() for file in files if file.suffix != ".pyc"
        )
        if package.version != version or not kept:
            found.append(name)
    return found


def subset(path: Path, names: Sequence[str]) -> str:
    """The entries of a lock file, hashes included, of some packages."""
    entries = re.split(r"\n(?=\S)", path.read_text(encoding="utf-8").strip())
    return "\n".join(entry for entry in entries if entry.split("==")[0] in names) + "\n"


class Progress:
    """One line per step, with the time it took."""

    def __init__(self) -> None:
        self._started_at_s = time.monotonic()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step, and say how long it took once it is done."""
        began_at_s = time.monotonic()
        print(f"[setup {began_at_s - self._started_at_s:5.0f} s] {title} …", end="", flush=True)
        try:
            yield
        except BaseException:
            print(" failed", flush=True)
            raise
        print(f" done in {time.monotonic() - began_at_s:.1f} s", flush=True)


def run_logged(command: Sequence[str], log: Path) -> bool:
    """Run a command with its output appended to the log; whether it succeeded."""
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"$ {' '.join(command)}\n")
        stream.flush()
        done = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
        )
    return done.returncode == 0


def run_step(step: Step, log: Path, progress: Progress) -> None:
    """Carry a step out, with its fallback.

    Raises:
        SetupError: neither command worked; carries the end of the log.
    """
    with progress.step(step.title):
        if run_logged(step.command, log):
            return
        if step.fallback is not None and run_logged(step.fallback, log):
            return
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:])
        raise SetupError(f"{tail}\n\n{step.title} failed: {step.remedy}. Whole log: {log}")


def make_environment(folder: Path, variant: str) -> None:
    """Create the virtual environment, or keep one that an interrupted run left usable."""
    stamp = read_stamp(folder)
    usable = (folder / "bin" / "python").exists() and run_logged(
        [str(folder / "bin" / "python"), "-c", "import sys, pip; sys.exit(sys.version_info < (3, 11))"],
        Path(os.devnull),
    )
    # The two variants put different files under the same names: never one over the other.
    other_variant = stamp != "" and not stamp.startswith(f"{variant} ")
    if not usable or other_variant:
        venv.create(folder, with_pip=True, clear=folder.exists(), symlinks=True)
    (folder / STAMP).unlink(missing_ok=True)


def repair(variant: str, python: str, log: Path, progress: Progress) -> None:
    """Install again whatever an earlier, interrupted run left incomplete."""
    for path in lock_files(variant):
        done = subprocess.run(
            [python, str(Path(__file__).resolve()), "--list-damaged", str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        names = done.stdout.split()
        if not names:
            continue
        again = log.parent / f"again-{path.name}"
        again.write_text(subset(path, names), encoding="utf-8")
        pip = (python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
        command = (*pip, "--no-deps", "--force-reinstall", "--require-hashes", "-r", str(again))
        run_step(Step(f"repairing {', '.join(names[:5])}", command), log, progress)


def write_launcher(folder: Path) -> None:
    """Put the `tidemill` command into the environment; it runs the checkout, nothing is installed."""
    launcher = folder / "bin" / "tidemill"
    launcher.write_text(LAUNCHER, encoding="utf-8")
    launcher.chmod(0o755)


def install(folder: Path, variant: str) -> None:
    """Bring the environment to what the lock files say; does nothing where the stamp says it is there."""
    wanted = stamp_text(variant)
    if read_stamp(folder) == wanted and (folder / "bin" / "tidemill").exists():
        return
    progress = Progress()
    print(f"Setting up {folder} for this machine ({variant}); once, a few minutes.", flush=True)
    with progress.step("creating the virtual environment"):
        make_environment(folder, variant)
    log = folder / "setup.log"
    log.write_text("", encoding="utf-8")
    python = str(folder / "bin" / "python")
    for step in steps(variant, python):
        run_step(step, log, progress)
    repair(variant, python, log, progress)
    write_launcher(folder)
    (folder / STAMP).write_text(wanted, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: no arguments to install."""
    parser = argparse.ArgumentParser(description="Set up Tidemill's virtual environment.")
    parser.add_argument("--variant", choices=VARIANTS, default=os.environ.get("TIDEMILL_VARIANT"))
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv")
    parser.add_argument("--list-damaged", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list_damaged:
        print("\n".join(damaged(pinned(options.list_damaged))))
        return 0
    try:
        check_platform(sys.version_info[:2], platform.system(), platform.machine())
        # Two runs side by side would install over each other. This file itself is the lock: nothing is left.
        with Path(__file__).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            install(options.folder, options.variant or detect_variant())
    except (SetupError, OSError, subprocess.SubprocessError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run the same command again and it goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
