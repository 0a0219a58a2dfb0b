"""`tidemill simulate`: a fleet under a trace, in virtual time, with the policies of the live cluster."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cluster.config import ConfigError, TidemillConfig, load_config
from cluster.policy.provisioning.policies import POLICIES
from cluster.simulation.experiment import Case, Traffic, figures, run_case, spread, traffic_files
from cluster.simulation.report import Report
from cluster.simulation.solver_output import solver_output_on_stderr
from cluster.simulation.traffic.trace import TraceError
from load_tests.command import print_json
from load_tests.record import circumstances
from operators.cli.console import CliError

_SHOWN = (
    ("SLO attainment", "slo_attainment", 1.0, ""),
    ("TTFT p50", "p50_ttft_s", 1.0, "s"),
    ("TTFT p99", "p99_ttft_s", 1.0, "s"),
    ("TPOT p50", "p50_tpot_s", 1000.0, "ms"),
    ("TPOT p95", "p95_tpot_s", 1000.0, "ms"),
    ("energy", "energy_j", 1 / 3.6e6, "kWh"),
    ("per output token", "energy_j_per_output_token", 1.0, "J"),
    ("cost", "cost_usd", 1.0, "$"),
    ("mean replicas", "replicas_mean", 1.0, ""),
    ("changes of size", "scale_events", 1.0, ""),
    ("of these, back", "direction_changes", 1.0, ""),
    ("failed", "failed", 1.0, ""),
    ("rejected", "rejected", 1.0, ""),
)


_PICTURES = (".png", ".svg", ".pdf", ".html")


def check_picture(path: Path | None) -> None:
    """Refuse a picture that could not be drawn, before anything is simulated for it.

    Raises:
        CliError: no such form, or no such folder.
    """
    if path is None:
        return
    if path.suffix.lower() not in _PICTURES:
        forms = f"{', '.join(_PICTURES[:-1])} or {_PICTURES[-1]}"
        raise CliError(f"{path}: a picture is a {forms}", exit_code=2)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise CliError(f"{path}: {path.parent} is no folder that can be written to", exit_code=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOptions:
    """What the command line says of the traffic."""

    traces: Sequence[str]
    rate_per_s: float | None
    duration_s: float | None
    start_s: float
    requests_max: int | None

    def traffic(self, config: TidemillConfig) -> Traffic:
        """Where the requests come from.

        Raises:
            TraceError: a file belongs to no model.
        """
        return Traffic(
            files=traffic_files(config, self.traces),
            rate_per_s=self.rate_per_s,
            duration_s=self.duration_s,
            start_s=self.start_s,
            requests_max=self.requests_max,
        )


def simulate(
    config_path: Path,
    options: TrafficOptions,
    *,
    policy: str | None,
    first_seed: int,
    seeds: int,
    plot: Path | None,
    json_output: bool,
) -> None:
    """Simulate and print what came of it.

    Raises:
        CliError: the configuration, a trace or the policy is unusable, or the picture's place.
    """
    check_picture(plot)
    try:
        config = load_config(config_path)
        name = policy or config.provisioning.policy
        if name not in POLICIES and name != "fixed":
            raise TraceError(f"no policy {name!r}; there are {', '.join(POLICIES)} and fixed")
        traffic = options.traffic(config)
        cases = [
            Case(config=config, traffic=traffic, policy=name, seed=seed)
            for seed in range(first_seed, first_seed + seeds)
        ]
        with solver_output_on_stderr():
            reports = _run(cases)
    except (ConfigError, TraceError, ValueError, OSError) as error:
        raise CliError(str(error), exit_code=2) from error
    if plot is not None:
        from operators.cli.plots import plot_timeline  # noqa: PLC0415 - matplotlib takes a second to import

        plot_timeline(reports[0], plot)
    rows = [
        {"case": "+".join(options.traces), "policy": name, "seed": case.seed, **figures(report)}
        for case, report in zip(cases, reports, strict=True)
    ]
    if json_output:
        command = shlex.join(["tidemill", *sys.argv[1:]])
        print_json({"benchmark": "simulate", "command": command, **circumstances(config_path), "rows": rows})
        return
    Console().print(_table(rows, name, reports))


def _run(cases: Sequence[Case]) -> list[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    reports = []
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        for case in cases:
            task = bar.add_task(f"{case.policy}, seed {case.seed}", total=1.0)
            reports.append(run_case(case, lambda done, task=task: bar.update(task, completed=done)))  # type: ignore[misc]
            bar.update(task, completed=1.0)
    return reports


def _table(rows: list[dict[str, Any]], policy: str, reports: Sequence[Report]) -> Table:
    seeds = f"{len(rows)} seeds" if len(rows) > 1 else "1 seed"
    table = Table(
        title=f"{policy}: {reports[0].requests} requests over {reports[0].duration_s:.0f} s, {seeds}"
    )
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("±", justify="right")
    for title, field, factor, unit in _SHOWN:
        mean, deviation = spread([row[field] * factor for row in rows])
        table.add_row(title, f"{mean:.4g} {unit}".strip(), f"{deviation:.2g}" if len(rows) > 1 else "")
    for pool in reports[0].pools:
        mean, deviation = spread([row[f"replicas_mean_{pool}"] for row in rows])
        table.add_row(f"replicas of {pool}", f"{mean:.4g}", f"{deviation:.2g}" if len(rows) > 1 else "")
    return table
