"""What several commands share: options, help and the turning of known failures into exit statuses."""

from collections.abc import Callable
from typing import Annotated

import typer

from operators.cli.console import CliError, reporter_for

HELP = {"help_option_names": ["-h", "--help"]}
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs instead of text for people.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        help="Another gateway than the one on this machine, e.g. http://host:8000; where the admin key is "
        "needed, TIDEMILL_ADMIN_KEY holds it."
    ),
]


def guarded(run: Callable[[], int | None], *, json_output: bool) -> None:
    """Run a command; a failure it knows becomes one line and an exit status."""
    try:
        raise typer.Exit(run() or 0)
    except CliError as error:
        reporter_for(json_events=json_output).error(str(error), error.details)
        raise typer.Exit(error.exit_code) from error
