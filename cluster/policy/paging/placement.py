"""Which nodes should have which adapters near: the view of whoever sees all nodes.

Greedy over pairs of node and adapter under one budget per node (a partition matroid; the objective is a sum
of concave functions of the number of copies, so greedy reaches at least half of the best). An adapter's next
copy is worth its load divided by the copies there would be, so copies go with load; a copy that exists counts
more (hysteresis), because moving it costs a page-in. Adapters that nobody asks for have one home, found by
rendezvous hashing, at the end of that node's list: a place on its disk and no slot that others need.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.policy.rendezvous import affinity

KEEP_BONUS = 1.5
"""How many times a copy that exists counts what a new one does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementNode:
    """A node that can hold adapters."""

    node: str
    base_model: str
    slots: int
    """For planned and pinned adapters: without the reserve."""
    holds: frozenset[str] = frozenset()
    """Keys of the adapters in its slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedAdapter:
    """An adapter to be placed."""

    key: str
    base_model: str
    load_per_s: float = 0.0
    """Requests for it, over all nodes."""
    pinned: bool = False


def place(nodes: Sequence[PlacementNode], adapters: Sequence[PlacedAdapter]) -> dict[str, tuple[str, ...]]:
    """For every node the keys of the adapters that it should have near, most valuable first."""
    found: dict[str, tuple[str, ...]] = {}
    for base in sorted({node.base_model for node in nodes}):
        found |= _place(
            sorted((n for n in nodes if n.base_model == base), key=lambda node: node.node),
            [adapter for adapter in adapters if adapter.base_model == base],
        )
    return found


def _place(nodes: Sequence[PlacementNode], adapters: Sequence[PlacedAdapter]) -> dict[str, tuple[str, ...]]:
    pinned = [adapter.key for adapter in adapters if adapter.pinned]
    placed: dict[str, list[str]] = {node.node: list(pinned) for node in nodes}
    free = {node.node: node.slots - len(pinned) for node in nodes}
    asked = {a.key: a.load_per_s for a in adapters if not a.pinned and a.load_per_s > 0}
    copies = dict.fromkeys(asked, 0)
    while True:
        best = _best_pair(nodes, placed, free, asked, copies)
        if best is None:
            break
        node, key = best
        placed[node].append(key)
        free[node] -= 1
        copies[key] += 1
    for adapter in adapters:
        if not adapter.pinned and not copies.get(adapter.key):
            home = max(nodes, key=lambda node: (affinity(adapter.key, node.node), node.node))
            placed[home.node].append(adapter.key)
    return {node: tuple(keys) for node, keys in placed.items()}


def _best_pair(
    nodes: Sequence[PlacementNode],
    placed: Mapping[str, Sequence[str]],
    free: Mapping[str, int],
    asked: Mapping[str, float],
    copies: Mapping[str, int],
) -> tuple[str, str] | None:
    """The copy that is worth most now; None if no slot is free or every node has everything."""
    best: tuple[tuple[float, bytes, str, str], tuple[str, str]] | None = None
    for node in nodes:
        if free[node.node] < 1:
            continue
        taken = set(placed[node.node])
        for key, load_per_s in asked.items():
            if key in taken:
                continue
            worth = load_per_s / (copies[key] + 1) * (KEEP_BONUS if key in node.holds else 1.0)
            rank = (worth, affinity(key, node.node), node.node, key)
            if best is None or rank > best[0]:
                best = (rank, (node.node, key))
    return None if best is None else best[1]
