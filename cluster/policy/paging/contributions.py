"""What each node saw of each adapter, such that telling it twice, late or in any order does no harm.

A contribution is a sum since its source began and carries the source's version. Of two from one source about
one adapter the newer one counts; the total is the sum over sources in the order of their names, so that equal
contributions give equal bits. (A state-based counter: Shapiro et al., "Conflict-free replicated data types",
2011.) A source that lost its state must take another name, or be given back what it told.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from cluster.policy.paging.interface import Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """All that one source saw of one adapter."""

    source: str
    adapter: str
    version: int
    """Grows with every observation of the source."""
    count: float
    """Judged answers, by weight."""
    response: Numbers
    """Σ w (utility − prior) x"""
    gram: Numbers
    """Σ w x xᵀ"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """All that all sources saw of one adapter."""

    count: float
    response: Numbers
    gram: Numbers


class Contributions:
    """The newest contribution of every source to every adapter."""

    def __init__(self) -> None:
        self._by_adapter: dict[str, dict[str, Contribution]] = {}

    def merge(self, contributions: Iterable[Contribution]) -> set[str]:
        """Take up what is newer than known; the adapters for which something was."""
        changed = set()
        for found in contributions:
            sources = self._by_adapter.setdefault(found.adapter, {})
            known = sources.get(found.source)
            if known is None or known.version < found.version:
                sources[found.source] = found
                changed.add(found.adapter)
        return changed

    def all(self) -> tuple[Contribution, ...]:
        """Every contribution, by adapter and source."""
        return tuple(
            sources[source] for _, sources in sorted(self._by_adapter.items()) for source in sorted(sources)
        )

    def keep(self, adapters: Collection[str]) -> None:
        """Forget all other adapters."""
        kept = set(adapters)
        self._by_adapter = {key: value for key, value in self._by_adapter.items() if key in kept}

    def total(self, adapter: str, dimension: int) -> Total:
        """The sum over all sources."""
        count, response, gram = 0.0, np.zeros(dimension), np.zeros((dimension, dimension))
        sources = self._by_adapter.get(adapter, {})
        for source in sorted(sources):
            found = sources[source]
            count += found.count
            response += found.response
            gram += found.gram
        return Total(count=count, response=response, gram=gram)
