"""Traffic for the adapter-paging benchmark: tasks, specialists, generalists, and requests over time.

Every task has a direction in the space of requests and one specialist, who half covers one other task as
well; generalists are as good everywhere. Utilities are linear in the vector of a request and then clipped,
tasks are drawn by Zipf's law, and page-ins cost in proportion to 0.4 + 0.6 rank / 64.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Shape = Literal["stationary", "shifts", "diurnal", "flash_crowd", "new_adapters", "cycle"]

_RANKS = (8, 16, 32, 64)
_BYTES_PER_RANK = 610_000
"""All linear layers of SmolLM2-135M in bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One situation to compare policies in."""

    name: str
    shape: Shape = "stationary"
    """How the tasks' popularity changes."""
    adapters: int = 15
    planned_slots: int = 4
    """K: slots of the static oracle. Policies have one more, the reserve, and the oracle pages through it."""
    dimension: int = 16
    requests: int = 6000
    price: float = 0.3
    """Utility that the page-in of an adapter of rank 64 costs."""
    zipf: float = 1.1
    noise: float = 0.1
    """Standard deviation of judgements around the true utility."""
    feedback_delay_requests: int = 0
    feedback_share: float = 1.0
    named_share: float = 0.0
    """Requests that name their adapter."""

    @property
    def generalists(self) -> int:
        """A fifth of the adapters."""
        return self.adapters // 5

    @property
    def tasks(self) -> int:
        """One for each specialist."""
        return self.adapters - self.generalists


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What happens in one case with one seed, whatever policies do."""

    x: Numbers
    """Requests by dimensions."""
    utility: Numbers
    """Requests by adapters: the true mean."""
    noise: Numbers
    """Of each request's judgement, the same whoever answers."""
    judged: NDArray[np.bool_]
    named: NDArray[np.intp]
    """The adapter that a request names, or -1."""
    price: Numbers
    """Per adapter: utility that its page-in costs."""
    bytes: NDArray[np.int64]
    arrives: NDArray[np.intp]
    """Per adapter: the request before which it enters the catalogue."""
    shifts: tuple[int, ...]
    """Requests at which popularity changes abruptly."""
    draws: Numbers


def world(case: Case, seed: int) -> World:
    """Draw everything that chance decides."""
    chance = np.random.default_rng([seed, 20260417])
    requests, tasks, adapters = case.requests, case.tasks, case.adapters
    popularity, shifts = _popularity(case, chance)
    if case.shape == "cycle":
        task = np.arange(requests) % min(case.planned_slots + 2, tasks)
    else:
        task = (popularity.cumsum(axis=1) < chance.random(requests)[:, None]).sum(axis=1).clip(0, tasks - 1)
    directions = _directions(tasks, case.dimension - 1, chance)
    spread = chance.normal(size=(requests, case.dimension - 1)) * 0.3 / np.sqrt(case.dimension - 1)
    z = directions[task] + spread
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    x = np.hstack([np.ones((requests, 1)), z]) / np.sqrt(2)
    arrives = np.zeros(adapters, dtype=np.intp)
    late = 0
    if case.shape == "new_adapters":
        late = max(1, adapters // 5)
        # the last specialists come late; what they are best at is asked for from the beginning
        arrives[adapters - late :] = np.linspace(0.3, 0.7, late) * requests
    rank = chance.choice(_RANKS, size=adapters)
    return World(
        x=x,
        utility=_utilities(case, z, directions, chance),
        noise=chance.normal(size=requests) * case.noise,
        judged=chance.random(requests) < case.feedback_share,
        named=_named(case, chance),
        price=case.price * (0.4 + 0.6 * rank / 64),
        bytes=rank * _BYTES_PER_RANK,
        arrives=arrives,
        shifts=shifts,
        draws=chance.random(requests),
    )


def _directions(tasks: int, dimension: int, chance: np.random.Generator) -> Numbers:
    """One unit vector per task, at right angles as long as the space has room."""
    drawn = chance.normal(size=(dimension, tasks))
    if tasks <= dimension:
        return np.linalg.qr(drawn)[0].T[:tasks]
    return np.asarray((drawn / np.linalg.norm(drawn, axis=0)).T)


def _utilities(case: Case, z: Numbers, directions: Numbers, chance: np.random.Generator) -> Numbers:
    """Generalists come first, so that specialists can come late."""
    tasks = case.tasks
    general = np.tile(chance.uniform(0.5, 0.6, size=case.generalists), (len(z), 1))
    base = chance.uniform(0.15, 0.35, size=tasks)
    peak = chance.uniform(0.8, 0.95, size=tasks)
    neighbour = (np.arange(tasks) + chance.integers(1, tasks, size=tasks)) % tasks
    own = z @ directions.T
    special = base + (peak - base) * (own + 0.5 * own[:, neighbour])
    return np.hstack([general, special]).clip(0, 1)


def _popularity(case: Case, chance: np.random.Generator) -> tuple[Numbers, tuple[int, ...]]:
    """Requests by tasks, and where it changes abruptly."""
    requests, tasks = case.requests, case.tasks
    zipf = 1 / np.arange(1, tasks + 1) ** case.zipf
    zipf /= zipf.sum()
    orders = [zipf[chance.permutation(tasks)] for _ in range(4)]
    at = np.arange(requests)
    if case.shape == "shifts":
        bounds = [requests // 4, requests // 2, 3 * requests // 4]
        return np.array(orders)[np.searchsorted(bounds, at, side="right")], tuple(bounds)
    if case.shape == "diurnal":
        share = 0.5 + 0.5 * np.sin(8 * np.pi * at / requests)
        return share[:, None] * orders[0] + (1 - share)[:, None] * orders[1], ()
    if case.shape == "flash_crowd":
        crowd = np.zeros((2, tasks))
        crowd[[0, 1], np.argsort(orders[0])[[0, 1]]] = 1.0
        starts = [int(requests * 0.4), int(requests * 0.7)]
        found = np.tile(orders[0], (requests, 1))
        for one, start in zip(crowd, starts, strict=True):
            found[start : start + requests // 10] = 0.4 * orders[0] + 0.6 * one
        return found, tuple(starts)
    return np.tile(orders[0], (requests, 1)), ()


def _named(case: Case, chance: np.random.Generator) -> NDArray[np.intp]:
    zipf = 1 / np.arange(1, case.adapters + 1) ** case.zipf
    chosen = chance.permutation(case.adapters)[
        chance.choice(case.adapters, size=case.requests, p=zipf / zipf.sum())
    ]
    return np.where(chance.random(case.requests) < case.named_share, chosen, -1)
