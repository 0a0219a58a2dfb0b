"""`tidemill bench`: a short load against a running gateway."""

from typing import Annotated

import typer

from operators.cli.commands.options import JsonOption, UrlOption, guarded


def bench(
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model to ask for.", show_default="the first one")
    ] = "",
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, max=1_000_000, help="How many.")] = 100,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=1024, help="At a time.")] = 8,
    duration_s: Annotated[
        float, typer.Option("--duration-s", min=0.1, max=3600, help="No request begins later.")
    ] = 60.0,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1, max=1_000_000)] = 128,
    output_tokens: Annotated[int, typer.Option("--output-tokens", min=1, max=100_000)] = 32,
    whole: Annotated[bool, typer.Option("--whole", help="Whole answers in place of streams.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the prompts.")] = 0,
    json_output: JsonOption = False,
    url: UrlOption = None,
) -> None:
    """Send a short load to a running gateway; rates, latencies and where requests went.

    A tenant's key is taken from TIDEMILL_API_KEY. Exit status 1 if a request failed.
    """
    from load_tests.closed_loop import ClosedLoad  # noqa: PLC0415 - `tidemill --help` must not import everything
    from operators.cli.bench import bench as run  # noqa: PLC0415 - as above

    load = ClosedLoad(
        model=model,
        requests=requests,
        concurrency=concurrency,
        duration_s=duration_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        stream=not whole,
        temperature=1.0,
        seed=seed,
    )
    guarded(lambda: run(load, url=url, json_output=json_output), json_output=json_output)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bench)
