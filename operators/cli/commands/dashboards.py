"""`tidemill dashboards`: what Grafana shows of a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from operators.cli.commands.options import HELP, JsonOption, guarded

app = typer.Typer(
    help="Bring the dashboards into Grafana, or write them as files.",
    no_args_is_help=True,
    context_settings=HELP,
)
PrometheusOption = Annotated[str, typer.Option("--prometheus-url", help="Where Grafana reaches Prometheus.")]


@app.command("push")
def dashboards_push(
    url: Annotated[str, typer.Option("--url", help="Grafana, e.g. https://grafana.example.com.")],
    token_file: Annotated[
        Path, typer.Option("--token-file", help="File with the token of a service account.")
    ],
    prometheus_url: PrometheusOption = "http://prometheus:9090",
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not check Grafana's certificate.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Create or update folder, data source and dashboards; pushing twice changes nothing."""
    from operators.cli.dashboards import push as run  # noqa: PLC0415 - as above

    guarded(
        lambda: run(
            url=url,
            token_file=token_file,
            prometheus_url=prometheus_url,
            verify=not insecure,
            json_output=json_output,
        ),
        json_output=json_output,
    )


@app.command("export")
def dashboards_export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write to.")],
    prometheus_url: PrometheusOption = "http://prometheus:9090",
    mounted_at: Annotated[
        str, typer.Option(help="Where Grafana will find the dashboards.")
    ] = "/var/lib/grafana/dashboards/tidemill",
    json_output: JsonOption = False,
) -> None:
    """Write dashboards and provisioning files for a Grafana that reads them from disk."""
    from operators.cli.dashboards import export as run  # noqa: PLC0415 - as above

    guarded(
        lambda: run(output, prometheus_url=prometheus_url, mounted_at=mounted_at, json_output=json_output),
        json_output=json_output,
    )
