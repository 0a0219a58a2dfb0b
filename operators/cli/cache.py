"""`tidemill cache`: what the semantic cache holds and decides, and forgetting some of it."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from operators.cli.console import CliError
from operators.cli.gateway_client import admin_get, admin_post

_TEXT_CHARS_SHOWN = 60
_WIDTH = 160


def stats(*, json_output: bool, url: str | None) -> None:
    """Print what every replica of the cache holds and how its categories stand.

    Raises:
        CliError: nothing runs or the gateway refused.
    """
    found = admin_get("/admin/cache/stats", url=url)
    if json_output:
        print(json.dumps(found))
        return
    console = Console(width=_WIDTH)
    for replica in found["replicas"]:
        exact = replica["exact"]
        lookups = ", ".join(f"{count} {outcome}" for outcome, count in replica["lookups"].items())
        console.print(
            f"exact: {exact['entries']} answers, {exact['bytes']} bytes; look-ups: {lookups or 'none'}"
        )
        semantic = replica["semantic"]
        if semantic is None:
            console.print("semantic: off (semantic_cache.semantic.enabled)")
            continue
        console.print(
            f"semantic: {semantic['entries']} entries, {semantic['bytes']} bytes; saved "
            f"{semantic['saved_tokens']} tokens, {semantic['saved_s']:.0f} s, "
            f"{semantic['saved_energy_j']:.0f} J, {semantic['saved_usd']:.2f} USD"
        )
        console.print(category_table(semantic["categories"]))


def inspect(scope: dict[str, Any], *, count: int, json_output: bool, url: str | None) -> None:
    """Print entries of the semantic tier.

    Raises:
        CliError: nothing runs, or the gateway refused.
    """
    found = admin_post("/admin/cache/inspect", {**_given(scope), "count": count}, url=url)
    if json_output:
        print(json.dumps(found))
        return
    table = Table("entry", "tenant", "model", "category", "hits", "age", "similarity", "text")
    for entry in found["entries"]:
        similarity = entry["similarity"]
        table.add_row(
            *(str(entry[name]) for name in ("entry_id", "tenant", "model", "category", "hits")),
            f"{entry['age_s']:.0f} s",
            "" if similarity is None else f"{similarity:.3f}",
            entry["text"][:_TEXT_CHARS_SHOWN],
        )
    Console(width=_WIDTH).print(table)


def purge(scope: dict[str, Any], *, everything: bool, json_output: bool, url: str | None) -> None:
    """Forget answers.

    Raises:
        CliError: nothing runs, the gateway refused, or all would be forgotten and nobody asked for that.
    """
    given = _given(scope)
    if not given and not everything:
        raise CliError("say what to forget (--tenant, --model, --category, --id, --text), or --all")
    found = admin_post("/admin/cache/purge", given, url=url)
    print(json.dumps(found) if json_output else f"forgot {found['purged']} answers")


def category_table(categories: dict[str, dict[str, Any]]) -> Table:
    """How the categories stand."""
    table = Table("category", "entries", "threshold", "hit rate", "break-even", "wrong", "at most", "allowed")
    for name, category in categories.items():
        threshold = f"{category['threshold']:.3f}" if category["serves"] else "serves nothing"
        table.add_row(
            name,
            str(category["entries"]),
            threshold,
            f"{category['hit_rate']:.3f}",
            f"{category['break_even_hit_rate']:.3f}",
            f"{category['wrong']} of {category['judged']}",
            f"{category['wrong_rate_upper']:.3f}",
            f"{category['error_max']:.3f}",
        )
    return table


def _given(scope: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scope.items() if value is not None}
