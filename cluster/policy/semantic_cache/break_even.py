"""Whether looking for near matches of a category is worth what it takes.

With a look-up of L seconds, a fetch of F and a model answer of T, a look-up pays if L + h·F + (1-h)·T < T,
that is from the hit rate h* = L/(T - F) on. A wrong answer that costs as much as `loss` model answers takes
its part of what hits save: h* = L/((T - F)·(1 - p·loss)). A category below h* is turned off and tried again
later, because what people ask changes.
"""

import math
from dataclasses import dataclass, replace

from cluster.config.semantic_cache import BreakEvenConfig

_MODEL_COST_MEMORY = 0.98
"""Weight of the past in the running mean of what a model answer takes: about the last fifty."""


def break_even_hit_rate(
    *,
    lookup_s: float,
    fetch_s: float,
    model_s: float,
    wrong_rate: float = 0.0,
    wrong_answer_loss: float = 0.0,
) -> float:
    """The hit rate from which look-ups save time; infinite if none does."""
    saved_s = (model_s - fetch_s) * (1.0 - wrong_rate * wrong_answer_loss)
    return lookup_s / saved_s if saved_s > 0 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What is known of a category's look-ups, as of an instant."""

    lookups: float = 0.0
    """Decayed count."""
    hits: float = 0.0
    """Decayed count."""
    model_s: float | None = None
    """Running mean of what a fresh answer takes."""
    as_of_s: float = 0.0
    off_since_s: float | None = None

    @property
    def hit_rate(self) -> float:
        """Of the look-ups that still count."""
        return self.hits / self.lookups if self.lookups else 0.0

    def looked_up(self, *, is_hit: bool, now_s: float, config: BreakEvenConfig) -> "Worth":
        """One more look-up."""
        weight = 0.5 ** (max(0.0, now_s - self.as_of_s) / config.half_life_s)
        return replace(
            self, lookups=self.lookups * weight + 1.0, hits=self.hits * weight + is_hit, as_of_s=now_s
        )

    def answered(self, model_s: float) -> "Worth":
        """What one fresh answer took."""
        known = model_s if self.model_s is None else self.model_s
        return replace(self, model_s=_MODEL_COST_MEMORY * known + (1 - _MODEL_COST_MEMORY) * model_s)

    def threshold(self, config: BreakEvenConfig, *, wrong_rate: float, wrong_answer_loss: float) -> float:
        """The hit rate at which the category breaks even."""
        return break_even_hit_rate(
            lookup_s=config.lookup_cost_s,
            fetch_s=config.fetch_cost_s,
            model_s=config.model_cost_s if self.model_s is None else self.model_s,
            wrong_rate=wrong_rate,
            wrong_answer_loss=wrong_answer_loss,
        )

    def decided(
        self, config: BreakEvenConfig, *, wrong_rate: float, wrong_answer_loss: float, now_s: float
    ) -> "Worth":
        """Turned off where it does not pay, on again for a probe after a while."""
        if self.off_since_s is not None:
            if now_s - self.off_since_s < config.probe_after_s:
                return self
            # A probe begins with nothing: what was counted before is why it was turned off.
            return replace(self, lookups=0.0, hits=0.0, as_of_s=now_s, off_since_s=None)
        if not config.enabled or self.lookups < config.lookups_min:
            return self
        needed = self.threshold(config, wrong_rate=wrong_rate, wrong_answer_loss=wrong_answer_loss)
        return replace(self, off_since_s=now_s) if self.hit_rate < needed else self
