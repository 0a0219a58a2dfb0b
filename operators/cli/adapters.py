"""`tidemill adapters`: what they are, where they lie, and changes of the catalogue."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.table import Table

from operators.cli.console import CliError
from operators.cli.gateway_client import admin_delete, admin_get, admin_post

_PATH = "/admin/adapters"
_WIDTH = 160
_FETCH_TIMEOUT_S = 360.0
"""Adding waits until the files were fetched and checked."""


def listing(*, json_output: bool, url: str | None) -> None:
    """Print all adapters.

    Raises:
        CliError: nothing runs, the gateway refused, or no pool has adapters.
    """
    found = admin_get(_PATH, url=url)
    if json_output:
        print(json.dumps(found))
        return
    console = Console(width=_WIDTH)
    console.print(adapters_table(found["data"]))
    coordinator = found["coordinator"]
    if coordinator is None:
        console.print("the coordinator has not spoken yet; this is what the configuration says")
        return
    console.print(
        f"coordinator: last round {coordinator['age_s']:.0f} s ago, version {found['catalogue_version']}"
    )
    for node in coordinator["nodes"]:
        if node["error"]:
            console.print(f"not reached: {node['replica_id']}: {node['error']}", markup=False)


def show(name: str, *, json_output: bool, url: str | None) -> None:
    """Print one adapter.

    Raises:
        CliError: as for `listing`, or there is none of that name.
    """
    found = admin_get(_of(name), url=url)
    if json_output:
        print(json.dumps(found))
        return
    for label, value in (
        ("adapter", found["id"]),
        ("source", found["source"]),
        ("sha256", found["sha256"] or "not known yet"),
        ("rank", found["rank"] or "not known yet"),
        ("size", _size(found["bytes"])),
        ("pinned", "yes" if found["pinned"] else "no"),
        ("prior utility", found["prior_utility"]),
        ("tags", ", ".join(f"{key}={value}" for key, value in found["tags"].items()) or "none"),
    ):
        print(f"{label:14} {value}")
    for place in found["residency"]:
        print(f"  {place['replica']}: {place['tier']}{', pinned' if place['pinned'] else ''}")


def add(
    name: str, fields: Mapping[str, Any], tags: list[str] | None, *, json_output: bool, url: str | None
) -> None:
    """Add an adapter.

    Raises:
        CliError: as for `listing`, or it was refused.
    """
    base, _, adapter = name.rpartition(":")
    body = {**_given(fields, tags), "name": adapter}
    if base:
        body.setdefault("base_model", base)
    body["source"] = _absolute(str(body["source"]))
    _tell("added", admin_post(_PATH, body, url=url, timeout_s=_FETCH_TIMEOUT_S), json_output=json_output)


def update(
    name: str, fields: Mapping[str, Any], tags: list[str] | None, *, json_output: bool, url: str | None
) -> None:
    """Change an adapter.

    Raises:
        CliError: as for `listing`, or it was refused, or there is nothing to change.
    """
    body = _given(fields, tags)
    if not body:
        raise CliError("say what to change: --source, --sha256, --prior-utility or --tag")
    if "source" in body:
        body["source"] = _absolute(str(body["source"]))
    found = admin_post(_of(name), body, url=url, timeout_s=_FETCH_TIMEOUT_S)
    _tell("changed", found, json_output=json_output)


def remove(name: str, *, json_output: bool, url: str | None) -> None:
    """Remove an adapter.

    Raises:
        CliError: as for `listing`, or there is none of that name.
    """
    _tell("removed", admin_delete(_of(name), url=url), json_output=json_output)


def adapters_table(adapters: Iterable[Mapping[str, Any]]) -> Table:
    """One row per adapter."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("adapter", "source", "weights"):
        table.add_column(title, overflow="fold")
    for title in ("rank", "size"):
        table.add_column(title, justify="right")
    table.add_column("where", overflow="fold")
    for adapter in adapters:
        table.add_row(
            f"{adapter['id']}{' (pinned)' if adapter['pinned'] else ''}",
            adapter["source"],
            adapter["sha256"][:12] or "?",
            str(adapter["rank"] or "?"),
            _size(adapter["bytes"]),
            places(adapter["residency"]),
        )
    return table


def places(residency: Iterable[Mapping[str, Any]]) -> str:
    """On how many replicas an adapter lies where, the nearest first."""
    counts = Counter(place["tier"] for place in residency)
    order = ("device", "host", "staged", "disk", "remote")
    return ", ".join(f"{tier} {counts[tier]}" for tier in order if counts[tier]) or "nowhere yet"


def _tell(what: str, found: Mapping[str, Any], *, json_output: bool) -> None:
    if json_output:
        print(json.dumps(found))
        return
    adapter, nodes = found["adapter"], found["nodes"]
    weights = adapter["sha256"][:12] or "not known yet"
    print(
        f"{what} {adapter['base_model']}:{adapter['name']} (weights {weights}); "
        f"{nodes['reached']} of {nodes['known']} replicas know of it"
    )


def _of(name: str) -> str:
    return f"{_PATH}/{quote(name, safe=':')}"


def _given(fields: Mapping[str, Any], tags: list[str] | None) -> dict[str, Any]:
    found = {name: value for name, value in fields.items() if value is not None}
    if tags:
        pairs = [tag.partition("=") for tag in tags]
        if any(not separator or not key for key, separator, _ in pairs):
            raise CliError("--tag is KEY=VALUE")
        found["tags"] = {key: value for key, _, value in pairs}
    return found


def _absolute(source: str) -> str:
    """A folder by its whole path: the coordinator has another working directory."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_dir() else source


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count else "?"
