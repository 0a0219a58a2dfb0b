"""What is known of every adapter's utility: one ridge regression each, in stacked arrays.

Disjoint LinUCB (Li et al., "A contextual-bandit approach to personalized news article recommendation",
2010) with utilities centred on a prior, so that an adapter nobody tried scores its prior and a bonus. What
this node saw stands apart from what others saw (`contributions.py`), so that merging twice changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.policy.paging.contributions import Contribution, Contributions
from cluster.policy.paging.interface import Mask, Narrow, Numbers, Rows, carried
from cluster.policy.paging.pending import PendingChoices

_REFRESH_ANSWERS = 2048
"""Answers after which an inverse is computed afresh: rank-one updates add up rounding errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Every adapter's utility for one request."""

    mean: Numbers
    width: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """A snapshot that scores requests anywhere."""

    keys: tuple[str, ...]
    prior: Numbers
    theta: Numbers
    """One row each, relative to the prior."""
    inverse: Numbers
    """One square matrix each."""

    def scored(self, x: Numbers) -> Scored:
        """Mean and width of every adapter's utility for one request."""
        return score(self.prior, self.theta, self.inverse, x)


def score(prior: Numbers, theta: Numbers, inverse: Numbers, x: Numbers) -> Scored:
    """Prior + θᵀx and √(xᵀV⁻¹x) of every adapter."""
    n, d = theta.shape
    spread = (inverse.reshape(n * d, d) @ x).reshape(n, d) @ x
    return Scored(mean=prior + theta @ x, width=np.sqrt(np.maximum(spread, 0.0)))


class Statistics:
    """The ridges of all adapters of a node's catalogue."""

    def __init__(self, *, dimension: int, regularisation: float, inherited: float, source: str) -> None:
        self._dimension = dimension
        self._regularisation = regularisation
        left, right = np.triu_indices(dimension)
        self._pairs = left, right, np.where(left == right, 1.0, 2.0)
        self._inherited = inherited
        self.source = source
        """Under which this node's observations are known elsewhere."""
        self.version = 0
        """Observations of this node."""
        self.others = Contributions()
        """What other nodes saw."""
        self._keys: tuple[str, ...] = ()
        self._prior: Numbers = np.zeros(0)
        self._own_version: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._own_count: Numbers = np.zeros(0)
        self._own_gram: Numbers = np.zeros((0, dimension, dimension))
        self._own_response: Numbers = np.zeros((0, dimension))
        self._base_gram: Numbers = np.zeros((0, dimension, dimension))
        self._base_response: Numbers = np.zeros((0, dimension))
        self._pending = PendingChoices()
        self._allocate_totals(0)

    @property
    def count(self) -> Numbers:
        """Judged answers of every adapter, of all nodes, by weight."""
        return self._count

    @property
    def choices(self) -> int:
        """Choices of adapters for requests that were told."""
        return self._pending.made

    def estimates(self) -> Estimates:
        """A snapshot; later observations do not change it."""
        return Estimates(
            keys=self._keys, prior=self._prior, theta=self._theta.copy(), inverse=self._doubt.copy()
        )

    def scored(self, x: Numbers) -> Scored:
        """Mean and width of every adapter's utility for one request."""
        return score(self._prior, self._theta, self._doubt, x)

    def scored_many(self, contexts: Narrow) -> tuple[Narrow, Narrow]:
        """Mean and width of every adapter's (columns) utility for every context (rows).

        The square forms of all adapters at once are one product of matrices: of the pairs of a context's
        entries, each once because the inverses are symmetric. In single precision: it is half the time of a
        plan, which is no surer than its estimates.
        """
        left, right, twice = self._pairs
        pairs = contexts[:, left] * contexts[:, right]
        packed = (self._doubt[:, left, right] * twice).astype(np.float32)
        spread = pairs @ packed.T
        mean = contexts @ self._theta.astype(np.float32).T
        mean += self._prior.astype(np.float32)
        np.maximum(spread, 0.0, out=spread)
        return mean, np.sqrt(spread, out=spread)

    def chosen(self, row: int, x: Numbers) -> None:
        """An adapter was chosen for a request; until its answer is judged, that alone narrows the doubt."""
        self._narrow(row, x, self._pending.add(row, x).weight)
        for overdue in self._pending.overdue():
            self._narrow(overdue.row, overdue.x, -overdue.weight)

    def observe(self, row: int, x: Numbers, utility: float, weight: float = 1.0) -> None:
        """One judged answer, by the formula of Sherman and Morrison."""
        self.version += 1
        self._own_version[row] = self.version
        self._own_count[row] += weight
        self._count[row] += weight
        response = weight * (utility - self._prior[row])
        outer = np.multiply.outer(x, weight * x)
        self._own_gram[row] += outer
        self._own_response[row] += response * x
        pending = self._pending.judged(row, x)
        if self._own_count[row] // _REFRESH_ANSWERS != (self._own_count[row] - weight) // _REFRESH_ANSWERS:
            self._refresh(row)
            return
        inverse, theta = self._inverse[row], self._theta[row]
        direction = inverse @ x
        shrink = 1.0 + weight * (direction @ x)
        theta += (response - weight * (theta @ x)) / shrink * direction
        inverse -= np.multiply.outer(direction, weight / shrink * direction)
        self._narrow(row, x, weight - (0.0 if pending is None else pending.weight))

    def _narrow(self, row: int, x: Numbers, weight: float) -> None:
        """Count an answer for the width alone; with a negative weight take one back."""
        if weight:
            doubt = self._doubt[row]
            direction = doubt @ x
            doubt -= np.multiply.outer(direction, weight / (1.0 + weight * (direction @ x)) * direction)

    def catalogue_changed(self, keys: tuple[str, ...], prior: Numbers, origin: Rows, replaced: Mask) -> None:
        """Other adapters, some of which follow older weights (`replaced`).

        Those inherit the mean and a share of the certainty; where that came from stays with the old weights.
        """
        gram, response = self._total_gram(), self._total_response()
        self._keys, self._prior = keys, prior
        fresh = np.where(replaced, -1, origin)
        for name in ("own_gram", "own_response", "own_count", "base_gram", "base_response"):
            setattr(self, f"_{name}", carried(getattr(self, f"_{name}"), fresh, 0.0))
        self._own_version = carried(self._own_version.astype(np.float64), fresh, 0.0).astype(np.int64)
        for row in np.flatnonzero(replaced):
            self._base_gram[row] = self._inherited * gram[origin[row]]
            self._base_response[row] = self._inherited * response[origin[row]]
        self.others.keep(keys)
        self._allocate_totals(len(keys))
        for row in range(len(keys)):
            self._take_others(row)

    def contributions(self, since: int = 0) -> tuple[Contribution, ...]:
        """What this node saw of every adapter that it saw something new of after its version `since`."""
        return tuple(
            Contribution(
                source=self.source,
                adapter=self._keys[row],
                version=int(self._own_version[row]),
                count=float(self._own_count[row]),
                response=self._own_response[row].copy(),
                gram=self._own_gram[row].copy(),
            )
            for row in np.flatnonzero(self._own_version > since)
        )

    def merge(self, contributions: Sequence[Contribution]) -> None:
        """Take up what was seen elsewhere; older than known is passed over, so that order does not matter.

        Raises:
            ValueError: a contribution is of another dimension.
        """
        for found in contributions:
            if found.response.shape != (self._dimension,):
                raise ValueError(f"{found.source}: vectors of {found.response.size}, not {self._dimension}")
        rows = {key: row for row, key in enumerate(self._keys)}
        changed = self.others.merge(
            [found for found in contributions if found.source != self.source and found.adapter in rows]
        )
        for found in contributions:
            row = rows.get(found.adapter)
            # a node that lost its state gets back what it once told
            if found.source == self.source and row is not None and found.version > self._own_version[row]:
                self._own_version[row] = found.version
                self._own_count[row] = found.count
                self._own_response[row] = found.response
                self._own_gram[row] = found.gram
                self.version = max(self.version, found.version)
                changed.add(found.adapter)
        for key in sorted(changed):
            self._take_others(rows[key])

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """What this node saw and inherited, for the disk; what others saw they tell again."""
        return {
            "version": np.array(self.version),
            "own_gram": self._own_gram,
            "own_response": self._own_response,
            "own_count": self._own_count,
            "own_version": self._own_version,
            "base_gram": self._base_gram,
            "base_response": self._base_response,
        }

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave, for the same catalogue in the same order.

        Raises:
            ValueError: it is of another shape.
        """
        for name, mine in self.arrays().items():
            if arrays[name].shape != mine.shape:
                raise ValueError(f"{name} has the shape {arrays[name].shape}, not {mine.shape}")
        self.version = int(arrays["version"])
        self._own_version = np.array(arrays["own_version"], dtype=np.int64)
        for name in ("own_gram", "own_response", "own_count", "base_gram", "base_response"):
            setattr(self, f"_{name}", np.array(arrays[name], dtype=np.float64))
        for row in range(len(self._keys)):
            self._take_others(row)

    def _allocate_totals(self, n: int) -> None:
        d = self._dimension
        self._others_gram, self._others_response = np.zeros((n, d, d)), np.zeros((n, d))
        self._count: Numbers = np.zeros(n)
        self._theta: Numbers = np.zeros((n, d))
        self._inverse: Numbers = np.tile(np.eye(d) / self._regularisation, (n, 1, 1))
        self._doubt: Numbers = self._inverse.copy()
        """The inverse with choices that were not judged yet."""
        self._pending.forget()

    def _total_gram(self) -> Numbers:
        return self._base_gram + self._own_gram + self._others_gram

    def _total_response(self) -> Numbers:
        return self._base_response + self._own_response + self._others_response

    def _take_others(self, row: int) -> None:
        total = self.others.total(self._keys[row], self._dimension)
        self._others_gram[row], self._others_response[row] = total.gram, total.response
        self._count[row] = self._own_count[row] + total.count
        self._refresh(row)

    def _refresh(self, row: int) -> None:
        gram = self._base_gram[row] + self._own_gram[row] + self._others_gram[row]
        response = self._base_response[row] + self._own_response[row] + self._others_response[row]
        self._inverse[row] = np.linalg.inv(gram + self._regularisation * np.eye(self._dimension))
        self._theta[row] = self._inverse[row] @ response
        self._doubt[row] = self._inverse[row]
        for choice in self._pending.of(row):
            self._narrow(row, choice.x, choice.weight)
