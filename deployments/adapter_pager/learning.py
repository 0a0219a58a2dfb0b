"""Takes up how answers were judged, each once, and when that came."""

import time
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from cluster.entities.adapters import AdapterOutcome
from cluster.metrics import adapters as metrics
from cluster.policy.paging.core import PagerCore
from deployments.adapter_pager.metrics import PagerMetrics

_REMEMBERED = 20_000
"""Ids: those of longer ago are taken for new."""


class OutcomeBook:
    """Outcomes by their ids."""

    def __init__(self, core: PagerCore, *, dimension: int, exported: PagerMetrics) -> None:
        self._core = core
        self._dimension = dimension
        self._exported = exported
        self._counted: OrderedDict[str, None] = OrderedDict()
        self._arrived_s: OrderedDict[str, float] = OrderedDict()

    def arrived(self, request_id: str) -> None:
        """A request came, under the id that its outcome will have."""
        if request_id:
            self._arrived_s[request_id] = time.monotonic()
            if len(self._arrived_s) > _REMEMBERED:
                self._arrived_s.popitem(last=False)

    def learn(self, outcomes: Iterable[AdapterOutcome]) -> int:
        """Take up outcomes; how many were news."""
        counted = 0
        for outcome in outcomes:
            if outcome.id in self._counted:
                continue
            if outcome.adapter not in self._core.keys or len(outcome.x) != self._dimension:
                continue
            self._counted[outcome.id] = None
            if len(self._counted) > _REMEMBERED:
                self._counted.popitem(last=False)
            arrived_s = self._arrived_s.pop(outcome.id.partition(":")[0], None)
            if arrived_s is not None:
                self._exported.observe(metrics.ADAPTER_FEEDBACK_LAG, time.monotonic() - arrived_s)
            utility = min(1.0, max(0.0, outcome.utility))
            self._core.observe(outcome.adapter, np.array(outcome.x), utility, outcome.weight)
            counted += 1
        return counted
