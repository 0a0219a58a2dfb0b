"""`tidemill metrics`: what Prometheus needs to watch a cluster."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from operators.cli.commands.options import HELP, JsonOption, UrlOption, guarded

app = typer.Typer(
    help="Where to scrape, with which configuration, and by which rules to alert.",
    no_args_is_help=True,
    context_settings=HELP,
)
FileOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead of printing.")
]


class Place(StrEnum):
    """Where Prometheus runs."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"
    OPERATOR = "operator"


@app.command("targets")
def metrics_targets(json_output: JsonOption = False, url: UrlOption = None) -> None:
    """List what there is to scrape: routers, semantic cache, engines."""
    from operators.cli.metrics import targets as run  # noqa: PLC0415 - as above

    guarded(lambda: run(json_output=json_output, url=url), json_output=json_output)


@app.command("scrape-config")
def metrics_scrape_config(
    place: Annotated[
        Place, typer.Option("--for", help="A Prometheus here, on Kubernetes, or under its operator.")
    ] = Place.LOCAL,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration, for Kubernetes.")
    ] = None,
    gateway_url: Annotated[
        str | None, typer.Option(help="Gateway inside the cluster.", show_default="its Service's name")
    ] = None,
    key_file: Annotated[
        str, typer.Option(help="File in Prometheus' container with the admin key.")
    ] = "/etc/prometheus/tidemill/admin-key",
    output: FileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Print a configuration that scrapes everything and reads the alert rules beside it."""
    from operators.cli.metrics import scrape_config as run  # noqa: PLC0415 - as above

    guarded(
        lambda: run(
            place.value,
            config_path=config,
            gateway_url=gateway_url,
            key_file=key_file,
            output=output,
            json_output=json_output,
        ),
        json_output=json_output,
    )


@app.command("alerts")
def metrics_alerts(output: FileOption = None, json_output: JsonOption = False) -> None:
    """Print the alert rules; what to do about each is in docs/operations.md."""
    from operators.cli.metrics import alerts as run  # noqa: PLC0415 - as above

    guarded(lambda: run(output=output, json_output=json_output), json_output=json_output)
