"""A table of what every model's answer to every prompt was worth and took."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cluster.config.model_routing import WeightsConfig

Numbers = NDArray[np.float64]
Rows = NDArray[np.intp]


class TableError(ValueError):
    """A file is not a table of the format asked for; the message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """One row per prompt, one column per model."""

    name: str
    models: tuple[str, ...]
    prompts: tuple[str, ...]
    categories: tuple[str, ...]
    """Of each prompt, as the table's authors sorted them."""
    prompt_tokens: Numbers
    quality: Numbers
    """0..1."""
    cost_usd: Numbers
    energy_j: Numbers
    energy_source: str
    """How the energy was come by; no table holds a meter's readings."""
    cost_source: str

    def __len__(self) -> int:
        return len(self.prompts)

    def of_rows(self, rows: Rows) -> "ModelTable":
        """The same table with these rows only, in their order."""
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in rows),
            categories=tuple(self.categories[row] for row in rows),
            prompt_tokens=self.prompt_tokens[rows],
            quality=self.quality[rows],
            cost_usd=self.cost_usd[rows],
            energy_j=self.energy_j[rows],
        )

    def of_models(self, models: Sequence[str]) -> "ModelTable":
        """The same table with these models only."""
        missing = [model for model in models if model not in self.models]
        if missing:
            raise TableError(f"no model {missing[0]!r} in the table; there are {', '.join(self.models)}")
        at = [self.models.index(model) for model in models]
        return replace(
            self,
            models=tuple(models),
            quality=self.quality[:, at],
            cost_usd=self.cost_usd[:, at],
            energy_j=self.energy_j[:, at],
        )


def net_value(table: ModelTable, weights: WeightsConfig) -> Numbers:
    """Reward of every answer: quality less money and energy, each scaled between the table's own percentiles.

    As GreenServ (arXiv 2601.17551) defines its reward, with the bounds over all models; policies do not see
    these bounds, they learn their own. Tables hold no latencies, so that time does not count.
    """
    taken = weights.cost * _scaled(table.cost_usd) + weights.energy * _scaled(table.energy_j)
    return np.asarray(weights.quality * table.quality - taken)


def halves(table: ModelTable, seed: int) -> tuple[Rows, Rows]:
    """The rows in a seeded order, cut in two: for fitting, for testing."""
    order = np.random.default_rng(seed).permutation(len(table))
    return order[: len(order) // 2], order[len(order) // 2 :]


def _scaled(values: Numbers) -> Numbers:
    low = float(np.quantile(values, 0.05, axis=0).min())
    high = float(np.quantile(values, 0.95, axis=0).max())
    return np.asarray(np.clip((values - low) / (high - low if high > low else 1.0), 0.0, 1.0))
