"""`tidemill adapters`: LoRA adapters of a running cluster."""

from typing import Annotated

import typer

from operators.cli.commands.options import HELP, JsonOption, UrlOption, guarded

app = typer.Typer(
    help="List, add, change and remove LoRA adapters while the cluster runs.",
    no_args_is_help=True,
    context_settings=HELP,
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Adapter; NAME or BASE:NAME.")]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source",
        help="Where its files are: a folder, http(s)://…, s3://…, recipe:NAME, or a Hugging Face id.",
    ),
]
Sha256Option = Annotated[str | None, typer.Option("--sha256", help="Hash that the files must have.")]
PriorOption = Annotated[
    float | None, typer.Option("--prior-utility", min=0, max=1, help="Expected utility of its answers.")
]
TagOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="For people; repeatable.")
]


@app.command("list")
def adapters_list(json_output: JsonOption = False, url: UrlOption = None) -> None:
    """List adapters and where they lie."""
    from operators.cli.adapters import listing as run  # noqa: PLC0415 - `tidemill --help` stays quick

    guarded(lambda: run(json_output=json_output, url=url), json_output=json_output)


@app.command("show")
def adapters_show(name: NameArgument, json_output: JsonOption = False, url: UrlOption = None) -> None:
    """Show one adapter: files, weights, and where it lies."""
    from operators.cli.adapters import show as run  # noqa: PLC0415 - as above

    guarded(lambda: run(name, json_output=json_output, url=url), json_output=json_output)


@app.command("add")
def adapters_add(
    name: NameArgument,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, http(s)://…, s3://…, recipe:NAME, or an id.")
    ],
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="Model that it adapts, if several could be."),
    ] = None,
    sha256: Sha256Option = None,
    prior_utility: PriorOption = None,
    pinned: Annotated[bool, typer.Option("--pin", help="Keep it in a slot on every node.")] = False,
    tag: TagOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of one of that name.")] = False,
    json_output: JsonOption = False,
    url: UrlOption = None,
) -> None:
    """Add an adapter; returns when it was fetched, checked, and is known to the nodes."""
    from operators.cli.adapters import add as run  # noqa: PLC0415 - as above

    fields = {
        "source": source,
        "base_model": base_model,
        "sha256": sha256,
        "prior_utility": prior_utility,
        "pinned": pinned or None,
        "replace": replace or None,
    }
    guarded(lambda: run(name, fields, tag, json_output=json_output, url=url), json_output=json_output)


@app.command("update")
def adapters_update(
    name: NameArgument,
    source: SourceOption = None,
    sha256: Sha256Option = None,
    prior_utility: PriorOption = None,
    tag: TagOption = None,
    json_output: JsonOption = False,
    url: UrlOption = None,
) -> None:
    """Change an adapter; with --source, its files are fetched again, and new weights get no old answers."""
    from operators.cli.adapters import update as run  # noqa: PLC0415 - as above

    fields = {"source": source, "sha256": sha256, "prior_utility": prior_utility}
    guarded(lambda: run(name, fields, tag, json_output=json_output, url=url), json_output=json_output)


@app.command("remove")
def adapters_remove(name: NameArgument, json_output: JsonOption = False, url: UrlOption = None) -> None:
    """Remove an adapter; requests that run on it finish, and its slot and memory are free then."""
    from operators.cli.adapters import remove as run  # noqa: PLC0415 - as above

    guarded(lambda: run(name, json_output=json_output, url=url), json_output=json_output)


@app.command("pin")
def adapters_pin(name: NameArgument, json_output: JsonOption = False, url: UrlOption = None) -> None:
    """Keep an adapter in a slot on every node."""
    from operators.cli.adapters import update as run  # noqa: PLC0415 - as above

    fields = {"pinned": True}
    guarded(lambda: run(name, fields, None, json_output=json_output, url=url), json_output=json_output)


@app.command("unpin")
def adapters_unpin(name: NameArgument, json_output: JsonOption = False, url: UrlOption = None) -> None:
    """Let an adapter leave its slots again."""
    from operators.cli.adapters import update as run  # noqa: PLC0415 - as above

    fields = {"pinned": False}
    guarded(lambda: run(name, fields, None, json_output=json_output, url=url), json_output=json_output)
