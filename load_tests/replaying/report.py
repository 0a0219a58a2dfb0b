"""A replay as one HTML page: what was run, tables, plots. Nothing is loaded from elsewhere."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from load_tests.replaying.figures import Done, Slo

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #12232c; }
body { max-width: 1080px; margin: 24px auto; padding: 0 16px; }
h1 { font-size: 22px; } h2 { font-size: 17px; margin-top: 28px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; border-bottom: 1px solid #d5dee4; text-align: right; }
th:first-child, td:first-child { text-align: left; } small { color: #4b606b; }
pre { background: #f3f6f8; padding: 10px; overflow-x: auto; font-size: 12.5px; }
svg { max-width: 100%; height: auto; }
"""
_LATENCIES = (
    ("ttft", "TTFT: time to first token"),
    ("tpot", "TPOT: time per output token"),
    ("itl", "ITL: gaps between tokens"),
    ("e2e", "End to end"),
)
_SHOWN = (50, 90, 95, 99)


def write_report(path: Path, result: dict[str, Any], done: Sequence[Done], slo: Slo) -> None:
    """Write the page.

    Args:
        path: of the file.
        result: of the run, as printed.
        done: what came of the requests.
        slo: drawn into the plots.
    """
    facts = {
        name: result.get(name)
        for name in (
            "command",
            "measured_at",
            "commit",
            "uncommitted_changes",
            "config",
            "config_sha256",
            "machine",
        )
    }
    lines = "\n".join(f"{name}: {value}" for name, value in facts.items())
    case = html.escape(str(result["rows"][0]["case"]))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Replay of {case}</title><style>{_STYLE}</style><h1>Replay of {case}</h1>",
        f"<pre>{html.escape(lines)}</pre>",
        _rates(result["rows"]),
        *(_latencies(result["rows"], name, title) for name, title in _LATENCIES),
        "<h2>Over time</h2>",
        _over_time(done),
        "<h2>Distributions</h2>",
        _distributions(done, slo),
    ]
    path.write_text("\n".join(parts), encoding="utf-8")


def _rates(rows: Sequence[dict[str, Any]]) -> str:
    names = ("requests", "failures", "requests_per_s", "tokens_per_s", "goodput_per_s", "attainment")
    head = "".join(f"<th scope=col>{name}" for name in ("tenant", *names))
    body = "".join(
        f"<tr><td>{html.escape(row['tenant'])}" + "".join(f"<td>{_number(row.get(name))}" for name in names)
        for row in rows
    )
    return f"<h2>Requests</h2><table><tr>{head}{body}</table>"


def _latencies(rows: Sequence[dict[str, Any]], name: str, title: str) -> str:
    head = "".join(f"<th scope=col>{column}" for column in ("tenant", *(f"p{share}, s" for share in _SHOWN)))
    body = ""
    for row in rows:
        cells = ""
        for share in _SHOWN:
            label = f"{name}_p{share}_s"
            between = f"{_number(row.get(f'{label}_low'))} to {_number(row.get(f'{label}_high'))}"
            cells += f"<td>{_number(row.get(label))}<br><small>{between}</small>"
        body += f"<tr><td>{html.escape(row['tenant'])}{cells}"
    return f"<h2>{title}</h2><table><tr>{head}{body}</table><small>Below each: 95 % interval.</small>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _over_time(done: Sequence[Done]) -> str:
    figure, (rate, first) = plt.subplots(2, 1, figsize=(10, 5), sharex=True)
    at_s = np.array([one.at_s for one in done])
    edges = np.linspace(0.0, max(1.0, float(at_s.max(initial=0.0))), 61)
    rate.stairs(np.histogram(at_s, edges)[0] / np.diff(edges), edges, fill=True, alpha=0.5)
    rate.set_ylabel("arrivals/s")
    for tenant in sorted({one.tenant for one in done}):
        points = [
            (one.at_s, one.outcome.timeline.ttft_s) for one in done if one.tenant == tenant and one.outcome.ok
        ]
        if points:
            first.plot(*zip(*points, strict=True), ".", markersize=3, label=tenant)
    failed = [one.at_s for one in done if not one.outcome.ok]
    first.plot(failed, [0.0] * len(failed), "x", color="tab:red", label="failed")
    first.set_ylabel("TTFT, s")
    first.set_xlabel("s after the beginning")
    first.legend(loc="upper right")
    return _svg(figure)


def _distributions(done: Sequence[Done], slo: Slo) -> str:
    whole = [one.outcome for one in done if one.counts and one.outcome.ok]
    series = (
        ("TTFT, s", [outcome.timeline.ttft_s for outcome in whole], slo.ttft_s),
        ("TPOT, s", [o.timeline.tpot_s for o in whole if o.timeline.output_tokens > 1], slo.tpot_s),
        ("ITL, s", [gap for outcome in whole for gap in outcome.itl_s], slo.itl_s),
    )
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
    for place, (title, values, bound_s) in zip(axes, series, strict=True):
        ordered = np.sort(np.array(values, dtype=float))
        place.step(ordered, np.arange(1, len(ordered) + 1) / max(1, len(ordered)), where="post")
        if bound_s is not None:
            place.axvline(bound_s, color="tab:orange", linestyle="--")
        place.set_xlabel(title)
        place.set_ylim(0, 1)
    axes[0].set_ylabel("share of answers")
    return _svg(figure)


def _svg(figure: Any) -> str:
    figure.tight_layout()
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    plt.close(figure)
    text = drawn.getvalue()
    return text[text.index("<svg") :]
