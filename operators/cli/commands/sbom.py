"""`tidemill sbom`: what Tidemill consists of."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from operators.cli.commands.options import guarded
from operators.cli.console import CliError

_ROOT = Path(__file__).resolve().parents[3]


def _print(variant: str) -> int:
    if not (_ROOT / "requirements" / "sbom.py").exists():
        raise CliError("the locks are not here; run it from a checkout of Tidemill")
    sys.path.insert(0, str(_ROOT))
    from requirements.sbom import main as run  # noqa: PLC0415 - as above

    return run(["--variant", variant])


def sbom(
    variant: Annotated[str, typer.Option(help="The lock: cpu or gpu.")] = "cpu",
    json_output: Annotated[bool, typer.Option("--json", help="It is always JSON.")] = True,
) -> None:
    """Print a bill of materials (CycloneDX 1.6, JSON): packages, versions, hashes, licences."""
    if variant not in {"cpu", "gpu"}:
        raise typer.BadParameter("cpu or gpu", param_hint="--variant")
    guarded(lambda: _print(variant), json_output=json_output)


def register(root: typer.Typer) -> None:
    """Add it to the command line."""
    root.command()(sbom)
