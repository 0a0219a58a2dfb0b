"""`tidemill cache`: the semantic cache from outside."""

from typing import Annotated

import typer

from operators.cli.commands.options import HELP, JsonOption, UrlOption, guarded

app = typer.Typer(
    help="Look into the semantic cache, and forget answers.",
    no_args_is_help=True,
    context_settings=HELP,
)
TenantOption = Annotated[str | None, typer.Option(help="Partition of a caller, as in the decision log.")]
ModelOption = Annotated[str | None, typer.Option(help="Model that was asked.")]
CategoryOption = Annotated[str | None, typer.Option(help="Category of prompts.")]
EntryOption = Annotated[str | None, typer.Option("--id", help="One entry (x-tidemill-cache-entry).")]
TextOption = Annotated[str | None, typer.Option(help="Only entries near this text.")]


@app.command("stats")
def cache_stats(json_output: JsonOption = False, url: UrlOption = None) -> None:
    """Show what the cache holds and how its categories stand."""
    from operators.cli.cache import stats as run  # noqa: PLC0415 - as above

    guarded(lambda: run(json_output=json_output, url=url), json_output=json_output)


@app.command("inspect")
def cache_inspect(
    tenant: TenantOption = None,
    model: ModelOption = None,
    category: CategoryOption = None,
    text: TextOption = None,
    count: Annotated[int, typer.Option(help="Entries to show.")] = 20,
    json_output: JsonOption = False,
    url: UrlOption = None,
) -> None:
    """List entries of the semantic tier, the newest first, or those nearest to a text."""
    from operators.cli.cache import inspect as run  # noqa: PLC0415 - as above

    scope = {"tenant": tenant, "model": model, "category": category, "text": text}
    guarded(lambda: run(scope, count=count, json_output=json_output, url=url), json_output=json_output)


@app.command("purge")
def cache_purge(
    tenant: TenantOption = None,
    model: ModelOption = None,
    category: CategoryOption = None,
    entry_id: EntryOption = None,
    text: TextOption = None,
    similarity: Annotated[float | None, typer.Option(help="How near to --text; 0.9 if omitted.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forget all answers.")] = False,
    json_output: JsonOption = False,
    url: UrlOption = None,
) -> None:
    """Forget answers of a tenant, model, category, entry, or near a text."""
    from operators.cli.cache import purge as run  # noqa: PLC0415 - as above

    scope = {
        "tenant": tenant,
        "model": model,
        "category": category,
        "entry_id": entry_id,
        "text": text,
        "similarity": similarity,
    }
    guarded(
        lambda: run(scope, everything=everything, json_output=json_output, url=url), json_output=json_output
    )
