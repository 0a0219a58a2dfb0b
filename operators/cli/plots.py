"""Pictures of simulations and plans: PNG, SVG or PDF, or an HTML page with the picture in it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from cluster.simulation.planning import FleetResult
from cluster.simulation.report import Report


def plot_timeline(report: Report, path: Path) -> None:
    """Arrivals, replicas and power over time."""
    timeline = report.timeline
    hours = [at_s / 3600.0 for at_s in timeline.at_s]
    figure, (demand, replicas, power) = plt.subplots(3, 1, figsize=(10, 8), sharex=True)
    demand.plot(hours, timeline.arrivals_per_s, linewidth=0.6)
    demand.set_ylabel("requests/s")
    for name, pool in timeline.pools.items():
        replicas.step(hours, pool.ready, where="post", label=name)
    replicas.set_ylabel("ready replicas")
    replicas.legend()
    power.plot(hours, [watts / 1000.0 for watts in timeline.power_w], linewidth=0.6)
    power.set_ylabel("kW")
    power.set_xlabel("hours")
    _write(figure, path)


def plot_front(found: Sequence[FleetResult], path: Path) -> None:
    """Fleets by cost and energy, the front joined."""
    figure, axes = plt.subplots(figsize=(8, 6))
    axes.scatter([result.usd_per_h for result in found], [result.kwh_per_h for result in found], color="0.6")
    front = sorted((result for result in found if result.on_front), key=lambda result: result.usd_per_h)
    axes.plot([result.usd_per_h for result in front], [result.kwh_per_h for result in front], marker="o")
    for result in front:
        fleet = " + ".join(f"{count} {name}" for name, count in sorted(result.replicas.items()))
        axes.annotate(fleet, (result.usd_per_h, result.kwh_per_h), fontsize=8)
    axes.set_xlabel("$ per hour")
    axes.set_ylabel("kWh per hour")
    axes.set_title("Fleets that meet the objectives")
    _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    figure.tight_layout()
    if path.suffix.lower() in (".html", ".htm"):
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=120)
        data = base64.b64encode(picture.getvalue()).decode()
        path.write_text(
            f'<!doctype html><title>tidemill</title><img src="data:image/png;base64,{data}">',
            encoding="utf-8",
        )
    else:
        figure.savefig(path, dpi=120)
    plt.close(figure)
