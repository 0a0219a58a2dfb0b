"""What deciding about many adapters takes: a router's choice, a node's decision, and a node's plan afresh.

Part of `load_tests.adapter_paging` (`--decisions N`), which serves the same functions with traffic.
"""

import random
import time
from typing import Any

import numpy as np

from cluster.config import TidemillConfig
from cluster.config.paging import PagingConfig
from cluster.entities.adapters import AdapterCard, AdapterCatalogue, AdapterResidency, AdapterTier
from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaReport, Role
from cluster.policy.paging.context import context_vector
from cluster.policy.paging.core import PagerCore
from cluster.policy.paging.interface import Budget, Numbers, PagedAdapter
from deployments.adapter_messages import LearnedState
from deployments.router.adapters.choice import AdapterChooser
from deployments.router.adapters.names import AdapterNames
from deployments.router.adapters.states import LearnedStates

_MODEL = "base"
_SLOTS = 17
"""Sixteen for plans and one in reserve."""
_NODES = 2
_TASKS = 12
_EMBEDDING = 384
_EPOCH_REQUESTS = 64
"""Plans four times as often as by default, to time more of them."""
_LEARNT = 1500
_TIMED = 2000


def decision_rows(adapters: int, seed: int) -> list[dict[str, Any]]:
    """Time all three with so many adapters."""
    chance = np.random.default_rng(seed)
    embeddings = _embeddings(chance, _LEARNT + _TIMED)
    paging = PagingConfig(epoch_requests=_EPOCH_REQUESTS)
    nodes = [_node(paging, adapters, name=f"n{number}") for number in range(_NODES)]
    decided, planned = _serve(nodes[0], paging, embeddings, chance)
    for node in nodes[1:]:
        _serve(node, paging, embeddings[:_LEARNT], chance)
    timed = {
        "router_choice": _choices(nodes, embeddings[_LEARNT:], seed),
        "node_decision": decided,
        "plan_afresh": planned,
    }
    return [
        {
            "case": f"n{adapters}_k{_SLOTS - 1}",
            "policy": name,
            "seed": seed,
            "decision_p50_s": float(np.quantile(seconds, 0.5)),
            "decision_p99_s": float(np.quantile(seconds, 0.99)),
        }
        for name, seconds in timed.items()
    ]


def _embeddings(chance: np.random.Generator, count: int) -> Numbers:
    """Of unit length, around a few directions."""
    tasks = chance.normal(size=(_TASKS, _EMBEDDING))
    found = tasks[chance.integers(_TASKS, size=count)] + 0.3 * chance.normal(size=(count, _EMBEDDING))
    scaled: Numbers = found / np.linalg.norm(found, axis=1, keepdims=True)
    return scaled


def _node(paging: PagingConfig, adapters: int, *, name: str) -> PagerCore:
    node = PagerCore(paging, Budget(slots=_SLOTS), source=name)
    node.set_catalogue(
        PagedAdapter(key=_sha256(row), bytes=1_000_000 * (1 + row % 4)) for row in range(adapters)
    )
    return node


def _serve(
    node: PagerCore, paging: PagingConfig, embeddings: Numbers, chance: np.random.Generator
) -> tuple[list[float], list[float]]:
    """Seconds of decisions, and of each epoch's longest plan, while the node learns from every answer."""
    decided: list[float] = []
    planned: list[float] = []
    for embedding in embeddings:
        x = context_vector(embedding, paging.dimension)
        began_s = time.perf_counter()
        scored = node.statistics.scored(x)
        key = node.keys[node.choose(x, draw=0.0, scored=scored).row]
        node.requested(key, x, scored=scored)
        decided_s = time.perf_counter()
        node.plan()
        ended_s = time.perf_counter()
        decided.append(ended_s - began_s)
        planned.append(ended_s - decided_s)
        if not node.holds(key):
            for leaving in node.room_for(key) or ():
                node.evicted(leaving)
            node.loaded(key)
        node.observe(key, x, float(chance.random()))
    epochs = len(planned) // _EPOCH_REQUESTS
    return decided, np.reshape(planned[: epochs * _EPOCH_REQUESTS], (epochs, -1)).max(axis=1).tolist()


def _choices(nodes: list[PagerCore], embeddings: Numbers, seed: int) -> list[float]:
    """Seconds of a router's choices by what these nodes say."""
    config = TidemillConfig.model_validate(
        {
            "models": {_MODEL: {"source": "none"}},
            "pools": {_MODEL: {"model": _MODEL, "adapters": {"slots": _SLOTS}}},
        }
    )
    names, states = AdapterNames(config), LearnedStates(config.adapters.paging)
    keys = nodes[0].keys
    cards = tuple(
        AdapterCard(name=f"a{row}", base_model=_MODEL, source="none", sha256=key)
        for row, key in enumerate(keys)
    )
    names.take(AdapterCatalogue(version=time.time_ns(), adapters=cards))
    names.apply(None, [_report(node) for node in nodes])
    usable = [ReplicaId(node.statistics.source) for node in nodes]
    for replica, node in zip(usable, nodes, strict=True):
        states.take(replica, LearnedState(version="1", estimates=node.estimates(), prices=node.prices()))
    chooser = AdapterChooser(config.adapters, names, states, draw=random.Random(seed).random)
    asked = f"{_MODEL}:auto"
    spent_s = []
    for embedding in embeddings.tolist():
        began_s = time.perf_counter()
        chooser.choose(asked, _MODEL, embedding, usable)
        spent_s.append(time.perf_counter() - began_s)
    return spent_s


def _report(node: PagerCore) -> ReplicaReport:
    lying = tuple(
        AdapterResidency(
            name=f"a{row}", sha256=key, tier=AdapterTier.DEVICE if node.holds(key) else AdapterTier.DISK
        )
        for row, key in enumerate(node.keys)
    )
    return ReplicaReport(
        replica_id=ReplicaId(node.statistics.source),
        pool=PoolName(_MODEL),
        role=Role.COMBINED,
        model=_MODEL,
        gpu_type="cpu",
        url="http://127.0.0.1:1",
        phase=ReplicaPhase.READY,
        observed_at_s=0.0,
        started_at_s=0.0,
        adapters=lying,
    )


def _sha256(row: int) -> str:
    return f"{row:064x}"
