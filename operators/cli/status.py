"""`tidemill status`: the fleet as the gateway sees it."""

import json
import sys
from collections import Counter
from collections.abc import Collection
from typing import Any

from rich.console import Console
from rich.table import Table

from operators.cli.gateway_client import admin_get

_PIPE_WIDTH = 160
_NAMES_SHOWN = 6


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
    if any(replica.get("adapters") for replica in replicas):
        console.print(residency_table(replicas))
    plan = fleet.get("provisioner")
    if plan is not None:
        console.print(plan_table(plan))
        reasons = ", ".join(str(reason).replace("_", " ") for reason in plan.get("reasons", ()))
        console.print(
            f"provisioner: {plan.get('policy')}" + (f" ({reasons})" if reasons else ""), markup=False
        )
        for meter, device, why in plan.get("meter_errors", ()):
            console.print(f"not metered: {device} by {meter}: {why}", markup=False, highlight=False)
    for service in fleet.get("services", []):
        console.print(f"{service.get('service')}: {service.get('url')}", markup=False, highlight=False)


def residency_table(replicas: list[dict[str, Any]]) -> Table:
    """One row per replica that has adapters: what is in its slots, in its host's memory, and near."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("replica", "in slots", "in memory", "on disk", "elsewhere"):
        table.add_column(title, overflow="fold")
    for replica in sorted(replicas, key=lambda found: str(found.get("replica_id"))):
        held = replica.get("adapters") or ()
        if not held:
            continue
        places: dict[str, list[str]] = {}
        for adapter in held:
            name = f"{adapter['name']}{' (pinned)' if adapter.get('pinned') else ''}"
            places.setdefault(str(adapter.get("tier")), []).append(name)
        near = [*places.get("staged", ()), *places.get("disk", ())]
        table.add_row(
            str(replica.get("replica_id")),
            ", ".join(places.get("device", ())) or "none",
            ", ".join(places.get("host", ())),
            _counted(near),
            _counted(places.get("remote", ())),
        )
    return table


def _counted(names: Collection[str]) -> str:
    """Names, or how many there are where they would fill the screen."""
    return ", ".join(names) if len(names) <= _NAMES_SHOWN else f"{len(names)} adapters"


def plan_table(published: dict[str, Any]) -> Table:
    """One row per pool: what is wanted, what is there, what it draws, and why."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("pool")
    for title in ("wanted", "ready", "starting", "draining", "power"):
        table.add_column(title, justify="right")
    table.add_column("why")
    seen = {pool["pool"]: pool for pool in published.get("pools", ())}
    for target in published.get("plan", {}).get("pools", ()):
        pool = seen.get(target["pool"], {})
        stages = Counter(replica.get("stage") for replica in pool.get("replicas", ()))
        power = pool.get("power_w")
        table.add_row(
            target["pool"],
            str(target["replicas"]),
            *(str(stages[stage]) for stage in ("ready", "starting", "draining")),
            "?" if power is None else f"{power:.0f} W {pool.get('power_source')}",
            ", ".join(str(reason).replace("_", " ") for reason in target.get("reasons", ())),
        )
    return table


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
