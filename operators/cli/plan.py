"""`tidemill plan`: which fleet serves a trace within its objectives, by cost and by energy."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from cluster.config import ConfigError, TidemillConfig, load_config
from cluster.simulation.experiment import spread
from cluster.simulation.planning import FleetResult, PlanRequest, evaluate, plan_fleets
from cluster.simulation.traffic.trace import TraceError
from load_tests.command import print_json
from load_tests.record import circumstances
from operators.cli.console import CliError
from operators.cli.simulate import TrafficOptions, check_picture

_PIPE_WIDTH = 140
_OPTIONS = {"ttft_s": "--slo-ttft", "tpot_s": "--slo-tpot", "attainment": "--attainment"}


def plan(
    config_path: Path,
    options: TrafficOptions,
    *,
    objectives: dict[str, float],
    seeds: int,
    resample: bool,
    against: tuple[str, ...],
    plot: Path | None,
    json_output: bool,
) -> None:
    """Find fleets and print them.

    Args:
        config_path: pools and models to plan with.
        options: traffic.
        objectives: fields of the model's SLO that take the place of the configured ones.
        seeds: how many traces each fleet is simulated on.
        resample: draw each seed's trace anew from the log, with Poisson arrivals.
        against: other fleets to simulate beside, each as `pool=count,pool=count`.
        plot: where to draw the front; None draws nothing.
        json_output: JSON instead of a table.

    Raises:
        CliError: the configuration or a trace is unusable, or the picture's place, or no fleet meets the
            objectives.
    """
    check_picture(plot)
    try:
        config = load_config(config_path)
        traffic = options.traffic(config)
        if len(traffic.files) != 1:
            raise TraceError("plan one model at a time: give the trace of one")
        model = next(iter(traffic.files))
        config = _with_objectives(config, model, objectives)
        traces = []
        for seed in range(seeds):
            trace = traffic.traces(seed)[model]
            if resample:
                trace = trace.resampled(options.requests_max or len(trace), trace.rate_per_s, seed)
            traces.append(trace)
        request = PlanRequest(config=config, model=model, traces=traces)
        # First: whoever has mistyped one shall not wait for the plan.
        others = [evaluate(request, fleet) for fleet in [_fleet(text) for text in against]]
        found = plan_fleets(request, progress=lambda text: print(f"simulating {text}", file=sys.stderr))
    except (ConfigError, TraceError, ValueError, OSError) as error:
        raise CliError(str(error), exit_code=2) from error
    if plot is not None and found:
        from operators.cli.plots import plot_front  # noqa: PLC0415 - matplotlib takes a second to import

        plot_front(found, plot)
    if json_output:
        print_json(_json(config_path, options, found, others))
    else:
        console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
        _print(console, config, model, found, others)
    if not found:
        raise CliError("no fleet of these pools meets the objectives; relax them or offer other hardware")


def _with_objectives(config: TidemillConfig, model: str, objectives: dict[str, float]) -> TidemillConfig:
    if not objectives:
        return config
    entry = config.models[model]
    try:
        slo = type(entry.slo).model_validate({**entry.slo.model_dump(), **objectives})
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise ValueError(f"{_OPTIONS[str(detail['loc'][0])]}: {detail['msg']}") from error
    models = {**config.models, model: entry.model_copy(update={"slo": slo})}
    return config.model_copy(update={"models": models})


def _fleet(text: str) -> dict[str, int]:
    fleet = {}
    for part in text.split(","):
        name, sign, count = part.partition("=")
        if not sign or not count.isdigit():
            raise ValueError(f"--against: expected pool=count,…, not {text!r}")
        fleet[name] = int(count)
    return fleet


def _json(
    config_path: Path, options: TrafficOptions, found: list[FleetResult], others: list[FleetResult]
) -> dict[str, Any]:
    case = "+".join(options.traces)
    return {
        "benchmark": "plan",
        "command": shlex.join(["tidemill", *sys.argv[1:]]),
        **circumstances(config_path),
        "rows": [
            {"case": case, "policy": kind, "instances": result.instances, **asdict(result)}
            for kind, results in (("plan", found), ("given", others))
            for result in results
        ],
    }


def _print(
    console: Console,
    config: TidemillConfig,
    model: str,
    found: list[FleetResult],
    others: list[FleetResult],
) -> None:
    slo = config.models[model].slo
    title = f"{model}: {slo.attainment:.1%} within TTFT {slo.ttft_s:g} s and TPOT {slo.tpot_s:g} s"
    table = Table(title=title)
    for name in ("fleet", "instances", "$/h", "kWh/h", "TTFT p99 s", "TPOT p95 ms", "SLO attainment", ""):
        table.add_column(name, justify="left" if name in ("fleet", "") else "right")
    cheapest = min(found, key=lambda result: result.usd_per_h, default=None)
    leanest = min(found, key=lambda result: result.kwh_per_h, default=None)
    for result in [*found, *others]:
        notes = [
            word
            for word, holds in (
                ("cheapest", result is cheapest),
                ("least energy", result is leanest),
                ("Pareto", result.on_front),
                ("as given", result in others),
                ("misses the SLO", not result.meets_slo),
            )
            if holds
        ]
        table.add_row(*_cells(result), ", ".join(notes))
    console.print(table)


def _cells(result: FleetResult) -> tuple[str, ...]:
    fleet = " + ".join(f"{count} {name}" for name, count in sorted(result.replicas.items()))
    ttft, ttft_deviation = spread(result.p99_ttft_s)
    tpot, _ = spread(result.p95_tpot_s)
    attained, deviation = spread(result.attainment)
    return (
        fleet,
        str(result.instances),
        f"{result.usd_per_h:.2f}",
        f"{result.kwh_per_h:.2f}",
        f"{ttft:.3f} ± {ttft_deviation:.3f}",
        f"{1000 * tpot:.1f}",
        f"{attained:.4f} ± {deviation:.4f}",
    )
