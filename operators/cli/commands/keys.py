"""`tidemill keys` and `tidemill usage`: tenants' keys and what they have used."""

from pathlib import Path
from typing import Annotated

import typer

from operators.cli.commands.options import HELP, JsonOption, UrlOption, guarded

app = typer.Typer(
    help="Make, list, rotate and revoke the API keys of tenants.",
    no_args_is_help=True,
    context_settings=HELP,
)
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="Configuration file.", show_default="that of the cluster that runs here"
    ),
]
KeyArgument = Annotated[str, typer.Argument(metavar="ID", help="A key's id, as `list` shows it.")]


@app.command("create")
def keys_create(
    tenant: Annotated[str, typer.Argument(help="A tenant of the configuration.")],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    expires_days: Annotated[
        float | None, typer.Option("--expires-days", min=0.0, help="Days after which it ends.")
    ] = None,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a key. It is printed once and kept as a hash."""
    from operators.cli.keys import create as run  # noqa: PLC0415 - as above

    guarded(
        lambda: run(
            tenant, name=name, expires_days=expires_days, config_path=config, json_output=json_output
        ),
        json_output=json_output,
    )


@app.command("list")
def keys_list(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """List keys by id; the keys themselves are nowhere."""
    from operators.cli.keys import list_all as run  # noqa: PLC0415 - as above

    guarded(lambda: run(tenant, config_path=config, json_output=json_output), json_output=json_output)


@app.command("show")
def keys_show(key: KeyArgument, config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """Show one key's tenant, state and dates."""
    from operators.cli.keys import show as run  # noqa: PLC0415 - as above

    guarded(lambda: run(key, config_path=config, json_output=json_output), json_output=json_output)


@app.command("rotate")
def keys_rotate(
    key: KeyArgument,
    grace_s: Annotated[float, typer.Option("--grace-s", min=0.0, help="Seconds the old key goes on.")] = 0.0,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a new key in place of one, for the same tenant."""
    from operators.cli.keys import rotate as run  # noqa: PLC0415 - as above

    guarded(
        lambda: run(key, grace_s=grace_s, config_path=config, json_output=json_output),
        json_output=json_output,
    )


@app.command("revoke")
def keys_revoke(key: KeyArgument, config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """End a key; routers notice within `tenants.store.keys_reload_s`."""
    from operators.cli.keys import revoke as run  # noqa: PLC0415 - as above

    guarded(lambda: run(key, config_path=config, json_output=json_output), json_output=json_output)


def usage(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    json_output: JsonOption = False,
    url: UrlOption = None,
) -> None:
    """Show requests, tokens, money and joules by tenant, day and month."""
    from operators.cli.keys import usage as run  # noqa: PLC0415 - as above

    guarded(lambda: run(tenant, json_output=json_output, url=url), json_output=json_output)


def register(root: typer.Typer) -> None:
    """Add both to the command line."""
    root.add_typer(app, name="keys")
    root.command()(usage)
