"""`tidemill status`: the fleet as the gateway sees it."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from operators.cli.gateway_client import admin_get

_PIPE_WIDTH = 160


def status(*, json_output: bool, url: str | None) -> None:
    """Print pools and replicas.

    Raises:
        CliError: nothing runs or the gateway refused.
    """
    fleet = admin_get("/admin/fleet", url=url)
    if json_output:
        print(json.dumps(fleet))
        return
    # A pipe has no width of its own; eighty columns would fold every name.
    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    replicas = fleet.get("replicas", [])
    if not replicas:
        console.print("the gateway answers, but no engine replica has reported yet")
        return
    console.print(fleet_table(replicas))
    for service in fleet.get("services", []):
        console.print(f"{service.get('service')}: {service.get('url')}", markup=False, highlight=False)


def fleet_table(replicas: list[dict[str, Any]]) -> Table:
    """One row per replica, pools together."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("pool", "role", "model", "on", "replica", "phase"):
        table.add_column(title, overflow="fold")
    for title in ("in flight", "queued", "KV use"):
        table.add_column(title, justify="right")
    for replica in sorted(replicas, key=lambda found: (str(found.get("pool")), str(found.get("replica_id")))):
        phase = str(replica.get("phase", "?"))
        table.add_row(
            *(str(replica.get(name, "?")) for name in ("pool", "role", "model", "gpu_type", "replica_id")),
            f"[green]{phase}[/]" if phase == "ready" else f"[yellow]{phase}[/]",
            f"{replica.get('requests_in_flight', '?')}/{replica.get('max_concurrent_requests', '?')}",
            str(replica.get("requests_waiting", "?")),
            f"{100 * float(replica.get('kv_cache_usage', 0.0)):.0f} %",
        )
    return table
