"""Commands that need no cluster: simulation, planning, replay and evaluation of logs."""

from pathlib import Path
from typing import Annotated

import typer

from operators.cli.commands.options import JsonOption, guarded

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
StartOption = Annotated[
    float, typer.Option("--start-s", min=0.0, help="Where in the trace to begin, in seconds.")
]
DurationOption = Annotated[
    float | None, typer.Option("--duration-s", min=1e-3, help="How much of the trace to take, in seconds.")
]
RequestsOption = Annotated[
    int | None, typer.Option("--requests-max", min=1, help="Take so many requests at most.")
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Draw a picture: a .png, .svg, .pdf or .html file.")
]


def simulate(
    config: FleetOption,
    trace: TraceOption,
    policy: Annotated[
        str | None,
        typer.Option("--policy", help="Provisioning policy, or `fixed`.", show_default="provisioning.policy"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="First seed.")] = 0,
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
    guarded(
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
    guarded(
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

    guarded(
        lambda: run(log, config_path=config, policy=policy, json_output=json_output), json_output=json_output
    )


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

    guarded(
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


def register(app: typer.Typer) -> None:
    """Add them to the command line."""
    for command in (simulate, plan, replay, evaluate):
        app.command()(command)
