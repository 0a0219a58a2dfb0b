"""The command that writes Kubernetes manifests."""

from pathlib import Path
from typing import Annotated

import typer

from operators.cli.commands.options import JsonOption, guarded


def render(
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the manifests.")],
    base: Annotated[
        Path | None,
        typer.Option("--base", help="A rendered folder; only what differs from it is written, as patches."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit status 1 if anything would change.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Write Kubernetes manifests for a configuration, to be applied with `kubectl apply -k`."""
    from operators.cli.render import render as run  # noqa: PLC0415 - `tidemill --help` must not import it

    guarded(
        lambda: run(config, output, base=base, check=check, json_output=json_output), json_output=json_output
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(render)
